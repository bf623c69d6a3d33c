package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// hiddenSQL lists the tables whose rows row level security may hide, each with the affected role: the
// current role; the owner, if row level security is forced, because the trigger and retention run as
// the owner; and, if $1 is true, every role that acts as the relay. A policy that lets the role see
// and write all rows hides none. The relay only reads events, and never names a partition.
const hiddenSQL = `
SELECT r.rolname::text, r.oid = c.relowner, c.relname::text
FROM pg_class c
JOIN pg_roles r ON r.rolname = current_user OR r.oid = c.relowner
                OR $1 AND r.rolcanlogin AND pg_has_role(r.oid, (SELECT oid FROM pg_roles WHERE rolname = 'outbox_relay'), 'USAGE')
WHERE c.relnamespace = to_regnamespace('outbox') AND c.relkind IN ('r', 'p') AND c.relrowsecurity
  AND NOT r.rolsuper AND NOT r.rolbypassrls
  AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
  AND (r.oid = c.relowner OR NOT c.relispartition AND c.relname <> 'schema_version')
  AND (EXISTS (SELECT FROM pg_policy p CROSS JOIN unnest(p.polroles) AS who
               WHERE p.polrelid = c.oid AND NOT p.polpermissive AND (who = 0 OR pg_has_role(r.oid, who, 'USAGE')))
       OR NOT EXISTS (
               SELECT FROM pg_policy p CROSS JOIN unnest(p.polroles) AS who
               WHERE p.polrelid = c.oid AND p.polpermissive AND (who = 0 OR pg_has_role(r.oid, who, 'USAGE'))
                 AND (p.polcmd = '*' OR p.polcmd = 'r' AND c.relname = 'event' AND r.oid <> c.relowner)
                 AND pg_get_expr(p.polqual, c.oid) = 'true'
                 AND coalesce(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true'))
ORDER BY 2, 1, 3`

// hidden is a role with the tables whose rows it may not all see.
type hidden struct {
	role    string
	isOwner bool
	tables  []string
}

// err names the remedy.
func (h hidden) err() error {
	what := "row level security can hide rows of outbox." + strings.Join(h.tables, ", outbox.") + " from the role " + h.role
	if h.isOwner {
		return errors.New(what + ", the owner, and the outbox's functions run as the owner: run \"ALTER TABLE outbox." +
			h.tables[0] + " NO FORCE ROW LEVEL SECURITY\", and the same for each table that is named")
	}
	return errors.New(what + ", so the relay cannot work: run \"ALTER TABLE outbox." + h.tables[0] +
		" DISABLE ROW LEVEL SECURITY\" as the owner, and the same for each table that is named, or \"ALTER ROLE " + h.role + " BYPASSRLS\"")
}

// filtered is true, in a statement, if a policy may hide rows of a table from the role that runs the
// statement. Security finds out whether the policy does. PostgreSQL evaluates it once for each
// statement.
const filtered = `(SELECT row_security_active('outbox.event') OR row_security_active('outbox.pending')
    OR row_security_active('outbox.lane') OR row_security_active('outbox.topic') OR row_security_active('outbox.dead_letter')
    OR row_security_active('outbox.share') OR row_security_active('outbox.worker'))`

// Security checks that no row is hidden from the relay. Its errors name the remedy.
func (s *Store) Security(ctx context.Context) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	err := security(ctx, s.pool, false)
	if err != nil && !errors.Is(err, context.Canceled) {
		s.visible.end()
	}
	return err
}

// visibility knows whether reads to which a policy applied follow each other without a break, and a check has
// passed after each of them. A check that failed is a break, and so is a read to which no policy applied: rows
// can have been hidden since. The zero value is ready.
type visibility struct {
	mu     sync.Mutex
	number int64 // of the last series of such reads
	goesOn bool
}

// series is the number of the series that goes on, 0 if none does.
func (v *visibility) series() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.goesOn {
		return 0
	}
	return v.number
}

func (v *visibility) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.goesOn = false
}

// goOn notes a check that has passed. It reports whether the series of before the read still went on.
func (v *visibility) goOn(before int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.goesOn {
		return v.number == before
	}
	v.goesOn = true
	v.number++
	return false
}

// errPolicies is the error of a read between whose checks policies have changed again and again.
var errPolicies = errors.New("row level security of outbox's tables has changed during the read: try again")

// visibly runs a read that is too frequent for unhidden. The read reports its value of filteredShares. If the series
// of before the read has ended and the check after it passes, rows may have been hidden, and visibly runs the read
// once more. If rows are hidden and shown again between two reads of a series, nothing notices it.
func (s *Store) visibly(ctx context.Context, read func() (isFiltered bool, err error)) error {
	for range 2 {
		before := s.visible.series()
		isFiltered, err := read()
		if err != nil {
			return err
		}
		if !isFiltered {
			s.visible.end()
			return nil
		}
		s.pinned.end(errFilteredPlan)
		if err := s.Security(ctx); err != nil {
			return err
		}
		if s.visible.goOn(before) {
			return nil
		}
	}
	return errPolicies
}

// unhidden runs a read, and returns an error if rows may have been hidden from it. A policy can change between
// the read and a check. ALTER POLICY waits until the read ends, so it often runs just then: a check that comes
// only after the read would pass, although the read missed hidden rows. So another check comes before the read.
func unhidden(ctx context.Context, db querier, read func() error) error {
	if err := security(ctx, db, false); err != nil {
		return err
	}
	if err := read(); err != nil {
		return err
	}
	return security(ctx, db, false)
}

func security(ctx context.Context, db querier, everyRelay bool) error {
	rows, err := db.Query(ctx, hiddenSQL, everyRelay)
	if err != nil {
		return fmt.Errorf("check row level security: %w", err)
	}
	var found []hidden
	var role, table string
	var isOwner bool
	_, err = pgx.ForEachRow(rows, []any{&role, &isOwner, &table}, func() error {
		i := slices.IndexFunc(found, func(h hidden) bool { return h.role == role })
		if i < 0 {
			i, found = len(found), append(found, hidden{role: role, isOwner: isOwner})
		}
		found[i].tables = append(found[i].tables, table)
		return nil
	})
	if err != nil {
		return fmt.Errorf("check row level security: %w", err)
	}
	var all []error
	for _, h := range found {
		all = append(all, h.err())
	}
	return errors.Join(all...)
}

// Warning is a setting or a state that an operator should change although the relay works.
type Warning struct {
	Check string // session or sequence
	Err   error  // names the remedy
}

// Warnings looks for settings and states that an operator should change although the relay works.
func (s *Store) Warnings(ctx context.Context) []Warning {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var warnings []Warning
	if err := s.sequenceWarning(ctx); err != nil {
		warnings = append(warnings, Warning{"sequence", err})
	}
	if err := s.topicsWarning(ctx); err != nil {
		warnings = append(warnings, Warning{"session", err})
	}
	found := s.session.Load()
	if found == nil {
		return warnings
	}
	for _, name := range timeoutNames {
		if need := s.needs(name); found.timeouts[name] > 0 && found.timeouts[name] < need {
			warnings = append(warnings, Warning{"session", fmt.Errorf("%s is %s for this role, and the relay's statements may take %s: %s; the relay has time limits of its own",
				name, found.timeouts[name], need, settingRemedy(found.role, name, "0"))})
		}
	}
	if found.encoding == sqlASCII {
		warnings = append(warnings, Warning{"session", errASCII})
	}
	return warnings
}

// needs is the minimum of a timeout of the server. A transaction that needs more sets it itself.
func (s *Store) needs(timeout string) time.Duration {
	if timeout == lockTimeout || timeout == idleTimeout {
		return time.Second
	}
	return s.cfg.Timeout
}

var errASCII = errors.New("the database's encoding is SQL_ASCII, so PostgreSQL stores texts without a check: " +
	"events that are not UTF-8 become dead letters; move to a database with the encoding UTF8 (pg_dump --encoding and createdb --encoding)")

// cacheSQL reads how many ids a session takes from the sequence at once. Every role may run it.
const cacheSQL = `
SELECT coalesce((SELECT s.seqcache FROM pg_sequence s
                 WHERE s.seqrelid = pg_get_serial_sequence('outbox.event', 'id')::regclass), 1),
       coalesce(has_sequence_privilege(to_regclass('outbox.event_id_seq'), 'SELECT'), true), current_user::text`

// sequenceWarning warns if sessions take ids before the transaction begins that uses them: low
// watermarks rely on transactions that take ids after they have locked the table. It also warns if the
// role may not read the sequence, so that the relay cannot see whether it is behind.
func (s *Store) sequenceWarning(ctx context.Context) error {
	var cache int64
	var mayRead bool
	var role string
	if err := s.pool.QueryRow(ctx, cacheSQL).Scan(&cache, &mayRead, &role); err != nil {
		return fmt.Errorf("look at the sequence of outbox.event.id: %w", err)
	}
	if !mayRead {
		return fmt.Errorf("the database role %s may not read the sequence of outbox.event.id, so the relay cannot notice a sequence that is behind the events: "+
			"run \"GRANT SELECT ON SEQUENCE outbox.event_id_seq TO outbox_relay\" as the owner", role)
	}
	if cache > 1 {
		return fmt.Errorf("the sequence of outbox.event.id has CACHE %d, so a session takes ids long before it uses them, and the relay can publish the events of a key "+
			"in another order than that of their commits: run \"ALTER TABLE outbox.event ALTER COLUMN id SET CACHE 1\" as the owner", cache)
	}
	return nil
}

// holdSQL fails if one of its texts cannot be converted to the database's encoding.
const holdSQL = `SELECT count(*) FROM unnest($1::text[])`

// CanHold checks that the database can store the names of topics: its encoding may lack some
// characters. It is one statement, unless it finds such a name.
func (s *Store) CanHold(ctx context.Context, topics []string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	holds := func(topics ...string) (err error) {
		var n int
		if err = s.pool.QueryRow(ctx, holdSQL, topics).Scan(&n); err != nil {
			err = fmt.Errorf("check the names of topics: %w", err)
		}
		return err
	}
	err := holds(topics...)
	if !unconvertible(err) {
		return err
	}
	var all []error
	for _, topic := range topics {
		err := holds(topic)
		switch {
		case unconvertible(err):
			all = append(all, fmt.Errorf("topic %q cannot exist in this database, whose encoding lacks a character of its name: use another name, or a database with the encoding UTF8: %w", topic, err))
		case err != nil:
			return errors.Join(append(all, err)...)
		}
	}
	return errors.Join(all...)
}

// Examine looks for faults that stop producers or the relay, as the owner of a database that was just
// migrated. Each error names its remedy.
func Examine(ctx context.Context, conn *pgx.Conn) (found []error) {
	if err := security(ctx, conn, true); err != nil {
		found = append(found, err)
	}
	if err := state(ctx, conn); err != nil {
		found = append(found, err)
	}
	if conn.PgConn().ParameterStatus("server_encoding") == sqlASCII {
		found = append(found, errASCII)
	}
	return found
}

// explained is the tracer of a single connection. Its errors name the setting that causes them.
type explained struct{ session *session }

func (e *explained) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (e *explained) TraceQueryEnd(_ context.Context, conn *pgx.Conn, d pgx.TraceQueryEndData) {
	var pgErr *pgconn.PgError
	if errors.As(d.Err, &pgErr) {
		e.session.explain(pgErr, conn.PgConn().ParameterStatus("session_authorization"))
	}
}

// Connect makes a single connection to a database, for "starter migrate". password makes its password;
// nil: the password is in the URL. notice gets the server's notices for people. The errors name the
// remedy.
func Connect(ctx context.Context, url string, password func(context.Context) (string, error), notice func(text string)) (*pgx.Conn, error) {
	if err := CheckURL(url); err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	var found explained
	prepare(config, func(s session) { found.session = &s })
	config.Tracer = &found
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "INFO" || n.SeverityUnlocalized == "WARNING" {
			notice(n.Message)
		}
	}
	if err := logIn(ctx, config, password); err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return conn, nil
}
