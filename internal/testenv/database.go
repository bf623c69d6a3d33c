package testenv

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/schema"
)

// Database is a pool on a database of the test's own. The database is migrated and empty.
// It is dropped when the test ends, even if programs are still connected to it.
func Database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(DatabaseURL(t))
	if err != nil {
		t.Fatalf("parse the test database's URL: %v", err)
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("open the test database: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// DatabaseURL is the URL of such a database, as its owner, for processes that the
// test starts. A test that wants pools on the same database as well opens them
// itself.
func DatabaseURL(t testing.TB) string {
	t.Helper()
	base := need(t, "DATABASE_URL")
	home, err := family(base)
	if err != nil {
		t.Fatalf("make the template of the test databases: %v", err)
	}
	name := home.name(strconv.FormatInt(home.count.Add(1), 10))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := home.exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, home.name("template"))); err != nil {
		t.Fatalf("create a test database: %v", err)
	}
	dropLater(t, home, name)
	return onDatabase(base, name)
}

// EncodedDatabaseURL is the URL of such a database in another encoding than UTF8.
func EncodedDatabaseURL(t testing.TB, encoding string) string {
	t.Helper()
	base := need(t, "DATABASE_URL")
	home, err := family(base)
	if err != nil {
		t.Fatalf("make the template of the test databases: %v", err)
	}
	name := home.name(strconv.FormatInt(home.count.Add(1), 10))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := home.exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C'", name, encoding)); err != nil {
		t.Fatalf("create a test database in %s: %v", encoding, err)
	}
	dropLater(t, home, name)
	if err := migrate(ctx, onDatabase(base, name)); err != nil {
		t.Fatalf("migrate a test database in %s: %v", encoding, err)
	}
	return onDatabase(base, name)
}

func dropLater(t testing.TB, home *databases, name string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := home.exec(ctx, drop(name))
		for err != nil && ctx.Err() == nil { // the owner cannot end a superuser's session, which ends by itself
			time.Sleep(20 * time.Millisecond)
			err = home.exec(ctx, drop(name))
		}
		if err != nil {
			t.Errorf("drop the test database: %v", err)
		}
	})
}

func migrate(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to it: %w", err)
	}
	// CREATE DATABASE fails while a session is connected to its template.
	defer conn.Close(ctx)
	if _, err := schema.Migrate(ctx, conn); err != nil {
		return fmt.Errorf("migrate it: %w", err)
	}
	return nil
}

// databases are those of one test process. Their names carry its token, and a
// session of its own holds an advisory lock on the token for as long as the
// process lives: the lock tells the next process which databases a killed process left.
type databases struct {
	base  string
	token int64
	count atomic.Int64
	alive *pgx.Conn
}

const namePrefix = "outbox_test_"

var (
	familyLock sync.Mutex
	families   = map[string]*databases{}
)

// family migrates the process's template once for each server that tests name.
func family(base string) (*databases, error) {
	familyLock.Lock()
	defer familyLock.Unlock()
	if d, ok := families[base]; ok {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var random [8]byte
	_, _ = rand.Read(random[:])
	d := &databases{base: base, token: int64(binary.BigEndian.Uint64(random[:]) >> 1)}
	conn, err := pgx.Connect(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("connect to DATABASE_URL: %w", err)
	}
	d.alive = conn
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", d.token); err != nil {
		return nil, fmt.Errorf("lock the token: %w", err)
	}
	if err := sweep(ctx, conn); err != nil {
		return nil, err
	}
	if err := d.makeTemplate(ctx); err != nil {
		return nil, err
	}
	families[base] = d
	return d, nil
}

// sweep drops the databases of test processes that are gone.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE datname LIKE $1", namePrefix+"%")
	if err != nil {
		return fmt.Errorf("list test databases: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list test databases: %w", err)
	}
	for _, name := range names {
		hex, _, _ := strings.Cut(strings.TrimPrefix(name, namePrefix), "_")
		token, err := strconv.ParseInt(hex, 16, 64)
		if err != nil {
			continue
		}
		var gone bool
		if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", token).Scan(&gone); err != nil {
			return fmt.Errorf("ask whether the owner of %s lives: %w", name, err)
		}
		if !gone {
			continue
		}
		// This session's own token is free to it as well, but owns nothing yet.
		_, err = conn.Exec(ctx, drop(name))
		if _, unlockErr := conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", token); unlockErr != nil {
			return fmt.Errorf("unlock the owner of %s: %w", name, unlockErr)
		}
		if err != nil {
			return fmt.Errorf("drop what a killed test left: %w", err)
		}
	}
	return nil
}

func (d *databases) makeTemplate(ctx context.Context) error {
	name := d.name("template")
	if _, err := d.alive.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return fmt.Errorf("create it: %w", err)
	}
	return migrate(ctx, onDatabase(d.base, name))
}

// exec runs a statement beside the session that shows the process is alive.
func (d *databases) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, d.base)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func (d *databases) name(suffix string) string {
	return fmt.Sprintf("%s%016x_%s", namePrefix, d.token, suffix)
}

func drop(name string) string {
	return fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)
}

// onDatabase is the URL (or the keyword string) of another database on the same
// server.
func onDatabase(base, name string) string {
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "" {
		return base + " dbname=" + name // the last one counts
	}
	u.Path = "/" + name
	return u.String()
}

// SuperuserURL is the URL of a test database as the server's superuser, for what no
// owner may do. The test ends here where that user may not log in.
func SuperuserURL(t testing.TB, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil || u.Scheme == "" {
		missing(t, "DATABASE_URL is no URL, so its superuser's cannot be made")
	}
	u.User = url.User("postgres")
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		missing(t, "the superuser postgres cannot log in: %v", err)
	}
	_ = conn.Close(t.Context())
	return u.String()
}

// Unchecked lets events in that the outbox refuses, as rows of earlier versions may be.
func Unchecked(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), `
		CREATE OR REPLACE FUNCTION outbox.event_is_valid(topic text, key text, type text, content_type text,
		                                                 payload text, created_at timestamptz, attributes jsonb) RETURNS boolean
		LANGUAGE sql RETURN true`); err != nil {
		t.Fatalf("let invalid events in: %v", err)
	}
}

// AsRole is a pool on pool's database that acts as one of the roles of
// schema.RolesSQL.
func AsRole(t testing.TB, pool *pgxpool.Pool, role string) *pgxpool.Pool {
	t.Helper()
	limited, err := pgxpool.New(t.Context(), RoleURL(t, pool, role))
	if err != nil {
		t.Fatalf("open the test database as %s: %v", role, err)
	}
	t.Cleanup(limited.Close)
	return limited
}

// RoleURL is the URL of such a pool. It makes the roles and grants role to the
// database's owner, who need not be a superuser.
func RoleURL(t testing.TB, pool *pgxpool.Pool, role string) string {
	t.Helper()
	// Roles belong to the server, so other test processes may do the same in this
	// very moment; PostgreSQL then lets one of them fail.
	Eventually(t, 10*time.Second, func() error {
		_, err := pool.Exec(t.Context(), schema.RolesSQL+"; GRANT "+role+" TO CURRENT_USER")
		return err
	})
	u, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatalf("parse the test database's URL: %v", err)
	}
	q := u.Query()
	q.Set("role", role)
	u.RawQuery = q.Encode()
	return u.String()
}
