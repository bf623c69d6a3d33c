package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/stack/tcp"
)

// Cluster is the PostgreSQL server of a stack and its replacements: a standby that streams
// from it and is promoted, or an earlier state that is restored. Clients reach the writer
// at an address that stays the same.
//
// A cluster has one standby at most. Call AddStandby again after a promotion.
type Cluster struct {
	stack   *Stack
	address *tcp.Proxy

	mu      sync.Mutex
	primary *server
	alive   bool // the primary has not been killed
	standby *server
	process *process   // the standby's
	link    *tcp.Proxy // between the standby and its primary
}

// Backup is the state of a cluster at the time at which it was taken.
type Backup struct {
	server *server
	used   bool
}

// Cluster makes the stack's PostgreSQL server the primary of a cluster. It fails for a
// server that was not started here. The cluster ends with the stack.
func (s *Stack) Cluster(ctx context.Context) (*Cluster, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	svc := s.services[Postgres]
	switch {
	case s.cluster != nil:
		return s.cluster, nil
	case svc == nil || svc.postgres == nil:
		return nil, fmt.Errorf("%s was not started here", Postgres)
	}
	address, err := tcp.New(ctx, svc.postgres.address())
	if err != nil {
		return nil, err
	}
	s.dir.closeLater(address.Close)
	s.cluster = &Cluster{stack: s, address: address, primary: svc.postgres, alive: true}
	return s.cluster, nil
}

// Address is where clients reach the writer: host and port.
func (c *Cluster) Address() string { return c.address.Address() }

// URL leads to the database outbox at Address, as its owner.
func (c *Cluster) URL() string {
	return fmt.Sprintf("postgres://outbox@%s/outbox?sslmode=disable", c.Address())
}

// PrimaryURL leads to the same database of the server that is the primary now, past
// Address.
func (c *Cluster) PrimaryURL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.primary.url("outbox", "outbox")
}

// StandbyURL leads to the same database of the standby, for readers. It is empty if there
// is none.
func (c *Cluster) StandbyURL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby == nil {
		return ""
	}
	return c.standby.url("outbox", "outbox")
}

// Super is URL as PostgreSQL's superuser, on the given database.
func (c *Cluster) Super(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", c.Address(), database)
}

// AddStandby makes a standby of the primary and returns once it streams.
func (c *Cluster) AddStandby(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby != nil {
		return errors.New("the cluster has a standby")
	}
	if !c.alive {
		return errors.New("the primary was killed")
	}
	standby, err := c.primary.copied(ctx, "standby")
	if err != nil {
		return fmt.Errorf("make a standby: %w", err)
	}
	link, err := tcp.New(ctx, c.primary.address())
	if err != nil {
		return err
	}
	c.stack.dir.closeLater(link.Close)
	host, port, _ := strings.Cut(link.Address(), ":")
	conninfo := fmt.Sprintf("host=%s port=%s user=postgres sslmode=disable", host, port)
	standby.options = []string{"-c", "primary_conninfo=" + conninfo, "-c", "wal_retrieve_retry_interval=100ms", "-c", "hot_standby=on"}
	if err := standby.write(standby.data+"/standby.signal", ""); err != nil {
		return err
	}
	process, err := c.launch(ctx, standby)
	if err != nil {
		link.Close()
		return fmt.Errorf("start a standby: %w", err)
	}
	c.standby, c.process, c.link = standby, process, link
	return c.catchUp(ctx)
}

// launch starts a server on a port of its own.
func (c *Cluster) launch(ctx context.Context, s *server) (proc *process, err error) {
	_, err = c.stack.withPorts(1, func(ports []int) (*service, error) {
		s.port = ports[0]
		proc, err = s.launch(ctx)
		return nil, err
	})
	return proc, err
}

// CatchUp returns once the standby has applied all commits up to this moment.
func (c *Cluster) CatchUp(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.catchUp(ctx)
}

func (c *Cluster) catchUp(ctx context.Context) error {
	if c.standby == nil {
		return errNoStandby
	}
	var written string
	if err := ask(ctx, c.primary, `SELECT pg_current_wal_flush_lsn()::text`, &written); err != nil {
		return err
	}
	return c.until(ctx, c.standby, `SELECT pg_last_wal_replay_lsn() >= '`+written+`'::pg_lsn`, "the standby did not catch up")
}

// Lag lets the standby catch up and then cuts it off: commits after Lag has
// returned do not reach it, and are lost if it is promoted.
func (c *Cluster) Lag(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	c.link.Cut()
	return c.until(ctx, c.standby, `SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)`, "the standby goes on receiving")
}

// Resume ends Lag.
func (c *Cluster) Resume(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby == nil {
		return errNoStandby
	}
	c.link.Restore()
	return c.catchUp(ctx)
}

// Isolate cuts clients off from the primary, which lives on for those who know PrimaryURL,
// and returns once their sessions have ended. A transaction that has not committed by then
// never commits. Without Kill it ends with Rejoin.
func (c *Cluster) Isolate(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.address.Cut()
	return c.until(ctx, c.primary, `
SELECT count(*) = 0 FROM (
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) ended`,
		"the primary's clients do not end")
}

// Rejoin ends Isolate.
func (c *Cluster) Rejoin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.address.Restore()
}

// HasStandby reports whether there is a standby.
func (c *Cluster) HasStandby() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.standby != nil
}

// Kill ends the primary for good, as if its machine were gone. Nothing answers at
// Address until Promote, FollowStandby or Restore.
func (c *Cluster) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill()
}

func (c *Cluster) kill() {
	if !c.alive {
		return
	}
	c.alive = false
	c.address.Cut()
	if c.link != nil {
		c.link.Cut() // what the primary sends while it dies is not received
	}
	c.stack.changing.Lock()
	defer c.stack.changing.Unlock()
	svc := c.stack.services[Postgres]
	svc.proc.stop()
	svc.again = nil
	_ = os.RemoveAll(c.primary.data)
}

// FollowStandby has Address lead to the standby before it is promoted: clients that
// connect reach a reader, as happens when a DNS name changes too early. It kills the
// primary.
func (c *Cluster) FollowStandby() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby == nil {
		return errNoStandby
	}
	c.kill()
	c.address.Redirect(c.standby.address())
	c.address.Restore()
	return nil
}

// Promote kills the primary, if it lives, makes the standby the primary, and returns once
// it can be written to at Address. The commits that the standby had not received are lost.
func (c *Cluster) Promote(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.standby == nil {
		return errNoStandby
	}
	c.kill()
	var promoted bool
	if err := ask(ctx, c.standby, `SELECT pg_promote(true, 60)`, &promoted); err != nil {
		return err
	}
	if !promoted {
		return errors.New("the standby was not promoted within a minute")
	}
	c.link.Close()
	next := *c.standby
	next.options = nil
	c.succeed(&next, c.process)
	c.standby, c.process, c.link = nil, nil, nil
	return nil
}

// succeed makes a server the primary.
func (c *Cluster) succeed(s *server, proc *process) {
	c.primary, c.alive = s, true
	c.stack.replace(Postgres, s, proc)
	c.address.Redirect(s.address())
	c.address.Restore()
}

// Backup keeps the primary's state of this moment, for Restore.
func (c *Cluster) Backup(ctx context.Context) (*Backup, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.primary.copied(ctx, "backup")
	if err != nil {
		return nil, fmt.Errorf("take a backup: %w", err)
	}
	return &Backup{server: s}, nil
}

// Restore kills the primary, if it lives, and the standby, and has a server with the state
// of the backup take its place at Address. All that was committed since the backup was
// taken is lost. A backup can be restored once.
func (c *Cluster) Restore(ctx context.Context, b *Backup) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.used {
		return errors.New("the backup was restored before")
	}
	b.used = true
	c.kill()
	if c.standby != nil {
		c.link.Close()
		c.process.stop()
		c.standby, c.process, c.link = nil, nil, nil
	}
	proc, err := c.launch(ctx, b.server)
	if err != nil {
		return fmt.Errorf("restore a backup: %w", err)
	}
	c.succeed(b.server, proc)
	return nil
}

var errNoStandby = errors.New("the cluster has no standby")

// replace has a part live on in another server.
func (s *Stack) replace(part Part, with *server, proc *process) {
	s.changing.Lock()
	defer s.changing.Unlock()
	svc := s.services[part]
	svc.postgres, svc.proc, svc.again = with, proc, with.launch
	go s.watch(part, proc)
}

// ask reads one value as the superuser, from the server itself.
func ask(ctx context.Context, s *server, sql string, value any) error {
	conn, err := pgx.Connect(ctx, s.super())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.address(), err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql).Scan(value); err != nil {
		return fmt.Errorf("ask %s for %s: %w", s.address(), sql, err)
	}
	return nil
}

// until asks again and again until the answer is yes, for a minute.
func (c *Cluster) until(ctx context.Context, s *server, sql, otherwise string) error {
	conn, err := pgx.Connect(ctx, s.super())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.address(), err)
	}
	defer conn.Close(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New(otherwise+" within a minute"))
	defer cancel()
	for {
		var yes bool
		if err := conn.QueryRow(ctx, sql).Scan(&yes); err != nil {
			return fmt.Errorf("ask %s for %s: %w", s.address(), sql, errors.Join(err, context.Cause(ctx)))
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
