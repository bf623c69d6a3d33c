package stack

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoPgBouncer says that PgBouncer is not installed, and that StartPgBouncer cannot
// install it.
var ErrNoPgBouncer = errors.New("there is no pgbouncer on PATH or in /usr/sbin")

// PgBouncer is a connection pooler in transaction mode. It is no part of a Stack:
// tests put one in front of a database, to see that nothing needs a session.
type PgBouncer struct {
	// URL is the database's, by way of the pooler.
	URL   string
	stack *Stack
}

// Stop ends the pooler, and every connection through it.
func (p *PgBouncer) Stop() { p.stack.Stop() }

// StartPgBouncer puts a pooler with at most so many server connections in front
// of the database of a URL, and returns once it passes a query on.
func StartPgBouncer(ctx context.Context, database string, conns int) (*PgBouncer, error) {
	dir, err := newTempDir()
	if err != nil {
		return nil, fmt.Errorf("make a directory for pgbouncer: %w", err)
	}
	s := &Stack{opt: Options{}.withDefaults(), dir: dir, freePort: freePort}
	p := &PgBouncer{stack: s}
	if err := p.start(ctx, database, conns); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	return p, nil
}

func (p *PgBouncer) start(ctx context.Context, database string, conns int) error {
	server, err := pgx.ParseConfig(database)
	if err != nil {
		return err
	}
	program, err := p.stack.pgBouncerBin(ctx)
	if err != nil {
		return err
	}
	home := p.stack.dir.file("pgbouncer")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	account, err := postgresAccount(home) // it refuses to be root as well
	if err != nil {
		return err
	}
	_, err = p.stack.withPorts(1, func(ports []int) (*service, error) {
		u := url.URL{
			Scheme: "postgres", User: url.User(server.User), Host: "127.0.0.1:" + strconv.Itoa(ports[0]),
			Path: "/" + server.Database, RawQuery: "sslmode=disable",
		}
		p.URL = u.String()
		ini := filepath.Join(home, "pgbouncer.ini")
		// It holds the database's password, and its reader may be another user.
		if err := os.WriteFile(ini, []byte(pgBouncerConfig(server, ports[0], conns)), 0o600); err != nil {
			return nil, err
		}
		if account.cred != nil {
			if err := os.Chown(ini, int(account.cred.Uid), int(account.cred.Gid)); err != nil {
				return nil, err
			}
		}
		proc, err := launch(account.command(program, ini), p.stack.dir.file("pgbouncer.log"), syscall.SIGKILL)
		if err != nil {
			return nil, err
		}
		p.stack.dir.own(proc)
		return nil, ready(ctx, proc, 20*time.Second, func(ctx context.Context) error {
			_, err := serverVersion(ctx, p.URL)
			return err
		})
	})
	return err
}

// pgBouncerConfig leaves everything at its default that a careful operator would.
// It lets each client in as the database's own user.
func pgBouncerConfig(server *pgx.ConnConfig, port, conns int) string {
	target := fmt.Sprintf("host=%s port=%d user=%s", quoted(server.Host), server.Port, quoted(server.User))
	if server.Password != "" {
		target += " password=" + quoted(server.Password)
	}
	return fmt.Sprintf(`[databases]
* = %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = 300
server_tls_sslmode = prefer
`, target, port, conns)
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// pgBouncerBin finds the program, or installs the package on Debian as root.
func (s *Stack) pgBouncerBin(ctx context.Context) (string, error) {
	if program, err := findPgBouncer(); err == nil || !debianRoot() {
		return program, err
	}
	step := newReporter(s.opt.Status).start("pgbouncer")
	defer step.finish()
	if err := os.MkdirAll(s.opt.ToolsDir, 0o755); err != nil { //nolint:gosec // tools are no secret
		return "", err
	}
	// Tests of two packages may install it at once, and apt-get update does not wait for its lock.
	unlock, err := lockFile(ctx, step, filepath.Join(s.opt.ToolsDir, "pgbouncer.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if program, err := findPgBouncer(); err == nil {
		return program, nil
	}
	if err := aptInstall(step, s.dir.file("apt.log"), "pgbouncer"); err != nil {
		return "", fmt.Errorf("install it: %w", err)
	}
	return findPgBouncer()
}

func findPgBouncer() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if program, err := exec.LookPath(name); err == nil {
			return program, nil
		}
	}
	return "", remedy(ErrNoPgBouncer, "install it (Debian: apt-get install pgbouncer, macOS: brew install pgbouncer)")
}
