package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/program"
)

// This file has all requirements of the relay on a session. Startup parameters set the settings that
// PgBouncer in transaction mode keeps for each client. The relay checks the other settings when it
// connects, because no statement may depend on session state.

// ErrSession says that the relay cannot work with the server or with a setting. The error names the
// remedy.
var ErrSession = errors.New("the relay cannot work in this session")

// settingError is an ErrSession whose text begins with the setting.
type settingError string

func (e settingError) Error() string        { return string(e) }
func (e settingError) Is(target error) bool { return target == ErrSession }

// session is the state of a new connection.
type session struct {
	inRecovery, readOnly bool
	isolation            string // default_transaction_isolation
	encoding             string // of the database
	role                 string // the role that logged in, or "…" if a pooler does not report it
	// timeouts are the timeouts that the role, the database or the server sets, by name.
	timeouts map[string]time.Duration
}

// startup are the parameters of every connection. They override those of the URL, the role and the
// database. PgBouncer tracks each of them.
var startup = map[string]string{
	"client_encoding": "UTF8",
	"DateStyle":       "ISO, YMD", // days are passed as text
	"TimeZone":        "UTC",      // days are days in UTC
}

// prepare makes the connections of a configuration suitable for the relay. seen gets the session of
// each new connection.
func prepare(c *pgx.ConnConfig, seen func(session)) {
	for name := range c.RuntimeParams {
		for own := range startup {
			if strings.EqualFold(name, own) {
				delete(c.RuntimeParams, name)
			}
		}
	}
	for name, value := range startup {
		c.RuntimeParams[name] = value
	}
	wanted := c.ValidateConnect // target_session_attrs
	c.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if wanted != nil {
			var notPreferred *pgconn.NotPreferredError // the relay needs a writer, preferred or not
			if err := wanted(ctx, conn); err != nil && !errors.As(err, &notPreferred) {
				return fmt.Errorf("%w: the relay needs target_session_attrs=read-write, which is its default", err)
			}
		}
		s, err := lookAt(ctx, conn)
		if err != nil {
			return err
		}
		seen(s)
		return s.check()
	}
	c.AfterConnect = readBytesOfASCII
}

// readBytesOfASCII makes a session with a SQL_ASCII database return bytes unchanged. For a UTF-8
// client, PostgreSQL validates such texts before it sends them, and one invalid row would fail its
// whole page. PgBouncer tracks this setting.
func readBytesOfASCII(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.ParameterStatus("server_encoding") != sqlASCII {
		return nil
	}
	return conn.Exec(ctx, "SET client_encoding TO '"+sqlASCII+"'").Close()
}

// sqlASCII is the encoding of a database that stores bytes without an encoding of their own.
const sqlASCII = "SQL_ASCII"

// sessionSQL reads all settings as text, in one column each. transaction_timeout exists from
// PostgreSQL 17 on. The view pg_settings would convert units, but takes a hundred times longer.
const sessionSQL = `
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('default_transaction_isolation'),
       current_setting('server_encoding'),
       extract(epoch FROM current_setting('statement_timeout')::interval),
       extract(epoch FROM current_setting('lock_timeout')::interval),
       extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval),
       extract(epoch FROM coalesce(current_setting('transaction_timeout', true), '0')::interval)`

// timeoutNames are the last columns of sessionSQL.
var timeoutNames = []string{statementTimeout, lockTimeout, idleTimeout, transactionTimeout}

const (
	statementTimeout   = "statement_timeout"
	lockTimeout        = "lock_timeout"
	idleTimeout        = "idle_in_transaction_session_timeout"
	transactionTimeout = "transaction_timeout"
)

// lookAt reads the state of a session that has just begun.
func lookAt(ctx context.Context, conn *pgconn.PgConn) (s session, err error) {
	results, err := conn.Exec(ctx, sessionSQL).ReadAll()
	if err != nil {
		return s, fmt.Errorf("look at the session: %w", err)
	}
	row := results[0].Rows[0]
	s = session{
		role:       cmp.Or(conn.ParameterStatus("session_authorization"), "…"),
		inRecovery: string(row[0]) == "t", readOnly: string(row[1]) == "on",
		isolation: string(row[2]), encoding: string(row[3]), timeouts: map[string]time.Duration{},
	}
	for i, name := range timeoutNames {
		if d, err := time.ParseDuration(string(row[4+i]) + "s"); err == nil && d > 0 {
			s.timeouts[name] = d
		}
	}
	return s, nil
}

// check returns an error that names the remedy if the relay cannot work in the session.
func (s session) check() error {
	switch {
	case s.inRecovery:
		return fmt.Errorf("%w: %s", ErrSession, standbyRemedy)
	case s.readOnly:
		return fmt.Errorf("%w: it is read-only: %s", ErrSession, settingRemedy(s.role, "default_transaction_read_only", "off"))
	case s.isolation != readCommitted:
		return settingError(fmt.Sprintf("default_transaction_isolation is %q, under which claims fail and retention does not see pending events: %s; "+
			"%s and the worker use different roles, and each role needs this setting",
			s.isolation, settingRemedy(s.role, "default_transaction_isolation", "'"+readCommitted+"'"), program.Starter("migrate")))
	}
	return nil
}

const readCommitted = "read committed"

const standbyRemedy = "the server is a standby and cannot write: DATABASE_URL must name the writer, " +
	"such as the cluster (writer) endpoint of Aurora; during a failover, wait until it is over"

// settingRemedy is the remedy for a setting of the relay's sessions.
func settingRemedy(role, setting, value string) string {
	return fmt.Sprintf("run \"ALTER ROLE %s SET %s = %s\" (if ALTER ROLE … IN DATABASE … has set it for this database, change it there: that setting has priority)",
		role, setting, value)
}

// SQLSTATEs that a setting of the role or the database causes.
const (
	readOnlyTransaction = "25006"
	queryCanceled       = "57014" // also by statement_timeout
	idleTimeoutHit      = "25P03"
	transactionTimeHit  = "25P04"
)

// explain adds the cause and the remedy to an error of the server that a setting causes, so that every
// caller's error has them.
func (s *session) explain(pgErr *pgconn.PgError, role string) {
	var name string
	switch pgErr.Code {
	case readOnlyTransaction:
		pgErr.Message += ": the server has become a reader, or default_transaction_read_only is on; the relay connects again"
		return
	case queryCanceled:
		name = statementTimeout
	case lockNotAvailable:
		name = lockTimeout
	case idleTimeoutHit:
		name = idleTimeout
	case transactionTimeHit:
		name = transactionTimeout
	}
	if s == nil || s.timeouts[name] == 0 {
		return
	}
	pgErr.Message += fmt.Sprintf(" (%s is %s for this role: run ALTER ROLE %s SET %s = 0 to turn it off)", name, s.timeouts[name], role, name)
}

// patientSQL ends a timeout for the rest of the transaction.
const patientSQL = `SELECT set_config($1, '0', true)`

// patiently runs statements that may read or move many rows. ctx limits their time. If a timeout of the
// server would end them sooner, they run in a transaction without that timeout.
func (s *Store) patiently(ctx context.Context, do func(db querier) error) error {
	if len(s.impatient()) == 0 {
		return do(s.pool)
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.patient(ctx, tx); err != nil {
			return err
		}
		return do(tx)
	})
}

// patient ends the timeouts of the role, the database or the server for a transaction.
func (s *Store) patient(ctx context.Context, tx pgx.Tx) error {
	for _, name := range s.impatient() {
		if _, err := tx.Exec(ctx, patientSQL, name); err != nil {
			return err
		}
	}
	return nil
}

// impatient are the timeouts that end a statement or a transaction.
func (s *Store) impatient() (names []string) {
	found := s.session.Load()
	for _, name := range []string{statementTimeout, transactionTimeout} {
		if found != nil && found.timeouts[name] > 0 {
			names = append(names, name)
		}
	}
	return names
}

// collect runs a query patiently and collects its rows.
func collect[T any](ctx context.Context, s *Store, scan pgx.RowToFunc[T], sql string, args ...any) (all []T, err error) {
	err = s.patiently(ctx, func(db querier) error {
		rows, err := db.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, scan)
		return err
	})
	return all, err
}

// readRow runs a query patiently and reads its row.
func (s *Store) readRow(ctx context.Context, into []any, sql string, args ...any) error {
	return s.patiently(ctx, func(db querier) error { return db.QueryRow(ctx, sql, args...).Scan(into...) })
}

// text makes a text storable in a database of any encoding, by replacing characters that cannot be
// stored. It is for reasons of failures, which may quote any text.
func (s *Store) text(v string) string {
	v = strings.ReplaceAll(strings.ToValidUTF8(v, "\uFFFD"), "\x00", "\uFFFD")
	seen := s.session.Load()
	if seen == nil || seen.encoding == "UTF8" || seen.encoding == sqlASCII {
		return v
	}
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, v)
}

// texts applies text to each element.
func (s *Store) texts(all []string) []string {
	storable := make([]string, len(all))
	for i, v := range all {
		storable[i] = s.text(v)
	}
	return storable
}
