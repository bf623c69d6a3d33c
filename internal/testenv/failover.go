package testenv

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/schema"
)

// Replaceable is a migrated, empty database on a server of the test's own, with a standby
// that streams from it, so that the test can replace the one by the other. All of its
// methods fail the test if they do not succeed.
//
//	db := testenv.Failover(t)
//	pool := db.Pool()
//	...          // the standby gets these commits
//	db.Lag()
//	...          // and does not get these
//	db.Promote() // the old primary is gone; db.URL leads to the new one
//
// PostgreSQL logs a sequence 32 numbers ahead, so commit more than 64 events after Lag if
// the new primary is to give numbers again.
type Replaceable struct {
	// URL leads to the current writer, as the database's owner.
	// Connections are cut when the server is replaced.
	URL string
	// Cluster is what the methods use.
	Cluster *stack.Cluster

	t testing.TB
}

// Failover starts two PostgreSQL servers, which takes about three seconds. It skips where
// Database does.
func Failover(t testing.TB) *Replaceable {
	t.Helper()
	need(t, "DATABASE_URL")
	getenv := func(name string) string {
		if name == "DATABASE_URL" {
			return "" // the servers that others use are not replaced
		}
		return os.Getenv(name)
	}
	s, err := stack.Start(t.Context(), stack.Options{Only: []stack.Part{stack.Postgres}, Getenv: getenv, Status: io.Discard})
	if err != nil {
		t.Fatalf("start a PostgreSQL server to be replaced: %v", err)
	}
	t.Cleanup(s.Stop)
	cluster, err := s.Cluster(t.Context())
	if err != nil {
		t.Fatalf("make a cluster: %v", err)
	}
	r := &Replaceable{URL: cluster.URL(), Cluster: cluster, t: t}
	r.do("migrate the database", func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, r.URL)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = schema.Migrate(ctx, conn)
		return err
	})
	r.AddStandby()
	return r
}

// Pool is a pool on URL, closed when the test ends.
func (r *Replaceable) Pool() *pgxpool.Pool {
	r.t.Helper()
	pool, err := pgxpool.New(r.t.Context(), r.URL)
	if err != nil {
		r.t.Fatalf("open the database that can be replaced: %v", err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

// AddStandby makes another standby, after Promote or Restore.
func (r *Replaceable) AddStandby() {
	r.t.Helper()
	r.do("add a standby", r.Cluster.AddStandby)
}

// StandbyURL leads to the standby itself, for readers.
func (r *Replaceable) StandbyURL() string { return r.Cluster.StandbyURL() }

// Lag lets the standby catch up and then cuts it off. Promote loses the commits that
// follow.
func (r *Replaceable) Lag() {
	r.t.Helper()
	r.do("cut the standby off", r.Cluster.Lag)
}

// CatchUp returns once the standby has all that is committed, after Lag as well.
func (r *Replaceable) CatchUp() {
	r.t.Helper()
	r.do("let the standby catch up", r.Cluster.Resume)
}

// Kill ends the primary for good. Nothing answers at URL until FollowStandby, Promote or
// Restore.
func (r *Replaceable) Kill() { r.Cluster.Kill() }

// FollowStandby has URL lead to the standby before it is promoted, so that clients reach
// a reader. It kills the primary.
func (r *Replaceable) FollowStandby() {
	r.t.Helper()
	r.do("lead clients to the standby", func(context.Context) error { return r.Cluster.FollowStandby() })
}

// Promote kills the primary, if it lives, and makes the standby the primary.
func (r *Replaceable) Promote() {
	r.t.Helper()
	r.do("promote the standby", r.Cluster.Promote)
}

// Backup keeps the state of this moment for Restore.
func (r *Replaceable) Backup() *stack.Backup {
	r.t.Helper()
	var backup *stack.Backup
	r.do("take a backup", func(ctx context.Context) (err error) {
		backup, err = r.Cluster.Backup(ctx)
		return err
	})
	return backup
}

// Restore kills the primary and its standby, and has a server with the state of the backup
// take their place. A backup can be restored once.
func (r *Replaceable) Restore(backup *stack.Backup) {
	r.t.Helper()
	r.do("restore a backup", func(ctx context.Context) error { return r.Cluster.Restore(ctx, backup) })
}

func (r *Replaceable) do(what string, f func(context.Context) error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	if err := f(ctx); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}
