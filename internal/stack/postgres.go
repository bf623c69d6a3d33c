package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// startPostgres runs a server with an empty database. It keeps PostgreSQL's own
// defaults, fsync included, so that measurements on it are honest. Only the number of
// connections is higher, for tests that run at the same time.
func (s *Stack) startPostgres(ctx context.Context, step *step) (*service, error) {
	if url := s.opt.Getenv("DATABASE_URL"); url != "" {
		return namedPostgres(ctx, url)
	}
	bin, version, err := s.postgresBin(step)
	if err != nil {
		return nil, err
	}
	home := s.dir.file("postgres")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	account, err := postgresAccount(home)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(home, "data")
	cmd := account.command(filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "postgres",
		"--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync")
	if err := run(ctx, cmd, s.dir.file("initdb.log")); err != nil {
		return nil, fmt.Errorf("create its data directory: %w", err)
	}
	return s.withPorts(1, func(ports []int) (*service, error) {
		server := &server{stack: s, bin: bin, account: account, home: home, data: data, port: ports[0]}
		proc, err := server.launch(ctx)
		if err != nil {
			return nil, err
		}
		url := server.url("outbox", "outbox")
		if err := createDatabase(ctx, server.super(), url); err != nil {
			return nil, proc.failure(err)
		}
		return &service{
			about:    fmt.Sprintf("PostgreSQL %s on %s", version, server.address()),
			env:      []string{"DATABASE_URL=" + url},
			proc:     proc,
			again:    server.launch,
			postgres: server,
		}, nil
	})
}

// server is a PostgreSQL server, its programs and its data directory.
type server struct {
	stack   *Stack
	bin     string
	account account
	home    string // where data directories are made
	data    string
	port    int
	options []string // beyond those that every server has
}

func (s *server) address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

func (s *server) url(user, database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", user, s.address(), database)
}

func (s *server) super() string { return s.url("postgres", "postgres") }

// launch starts the server and returns once it answers, which a standby does as soon as
// it can be read.
func (s *server) launch(ctx context.Context) (*process, error) {
	args := []string{
		"-D", s.data, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=300",
		"-c", "max_prepared_transactions=20", "-c", "log_checkpoints=off",
	}
	cmd := s.account.command(filepath.Join(s.bin, "postgres"), append(args, s.options...)...)
	// SIGQUIT is PostgreSQL's immediate shutdown, which takes its backends
	// along (each leads a session of its own, out of a group kill's reach).
	// There is no data worth a checkpoint.
	proc, err := launch(cmd, s.stack.dir.file("postgres-"+strconv.Itoa(s.port)+".log"), syscall.SIGQUIT)
	if err != nil {
		return nil, err
	}
	s.stack.dir.own(proc)
	return proc, ready(ctx, proc, 60*time.Second, func(ctx context.Context) error { return isOurs(ctx, s.super(), s.data) })
}

// account is who the server runs as: PostgreSQL refuses to be root.
type account struct {
	cred *syscall.Credential
	home string
}

func postgresAccount(home string) (account, error) {
	if os.Geteuid() != 0 {
		return account{home: home}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		if err := os.Chown(home, int(uid), int(gid)); err != nil {
			return account{}, fmt.Errorf("give the data directory to %s: %w", name, err)
		}
		return account{cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, home: home}, nil
	}
	return account{}, remedy(errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody"),
		"run as another user, or create the user postgres")
}

// own gives a file to the account.
func (a account) own(path string) error {
	if a.cred == nil {
		return nil
	}
	return os.Chown(path, int(a.cred.Uid), int(a.cred.Gid))
}

func (a account) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = a.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.cred}
	for _, kv := range os.Environ() {
		// PGDATA, PGPORT, PGOPTIONS and friends are meant for other servers.
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "HOME=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+a.home, "LC_ALL=C")
	return cmd
}

// isOurs checks that the server that answers is the one that this process started. For a
// moment, another server may answer on a port that this one then fails to get.
func isOurs(ctx context.Context, url, data string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var got string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&got); err != nil {
		return err
	}
	if got != data {
		return fmt.Errorf("another server answers, with its data in %s", got)
	}
	return nil
}

// createDatabase makes the owner and its database. The owner is no superuser, so
// that nothing comes to depend on being one; tests need databases and roles of
// their own, and to end and watch what runs in them.
func createDatabase(ctx context.Context, super, url string) error {
	conn, err := pgx.Connect(ctx, super)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{
		"CREATE ROLE outbox LOGIN CREATEDB CREATEROLE",
		"GRANT pg_monitor, pg_signal_backend TO outbox",
		"CREATE DATABASE outbox OWNER outbox",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	_, err = serverVersion(ctx, url)
	return err
}

func namedPostgres(ctx context.Context, url string) (*service, error) {
	var version string
	err := ready(ctx, nil, namedLimit, func(ctx context.Context) (err error) {
		version, err = serverVersion(ctx, url)
		return err
	})
	if err != nil {
		return nil, remedy(fmt.Errorf("DATABASE_URL names a database that does not answer: %w", err),
			"start it, or unset DATABASE_URL to have one started here")
	}
	return &service{about: "PostgreSQL " + version + ", as DATABASE_URL says", env: []string{"DATABASE_URL=" + url}}, nil
}

func serverVersion(ctx context.Context, url string) (version string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SHOW server_version").Scan(&version)
	return version, err
}
