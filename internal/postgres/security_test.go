package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// asRelay is a store that acts as the role that schema/roles.sql makes.
func (o testOutbox) asRelay() *Store {
	o.t.Helper()
	s, err := Open(o.t.Context(), Config{URL: testenv.RoleURL(o.t, o.db, "outbox_relay")})
	require.NoError(o.t, err)
	o.t.Cleanup(s.Close)
	return s
}

func TestSecurity_RowsThatMayBeHiddenAreNamedWithTheRemedy(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	s := o.asRelay()
	require.NoError(t, s.Check(t.Context()))
	for _, table := range []string{"event", "pending", "lane", "topic", "dead_letter", "discarded", "refusal", "operation", "sample"} {
		o.exec(`ALTER TABLE outbox.` + table + ` ENABLE ROW LEVEL SECURITY`)
		err := s.Check(t.Context())
		require.ErrorContains(t, err, "outbox."+table+" from the role outbox_relay")
		require.ErrorContains(t, err, "ALTER TABLE outbox."+table+" DISABLE ROW LEVEL SECURITY")
		_, err = s.Status(t.Context())
		require.ErrorContains(t, err, "row level security", "it would say that there are no topics")
		o.exec(`ALTER TABLE outbox.` + table + ` DISABLE ROW LEVEL SECURITY`)
	}
	require.NoError(t, s.Check(t.Context()))
}

func TestRights_NameEachRightOnATableThatTheRoleLacks(t *testing.T) {
	o := open(t)
	s := o.asRelay()
	require.NoError(t, s.Rights(t.Context()))
	rows, err := o.db.Query(t.Context(), `
		SELECT g.privilege_type || ' ON outbox.' || g.table_name FROM information_schema.role_table_grants g
		JOIN pg_class c ON c.relnamespace = 'outbox'::regnamespace AND c.relname = g.table_name AND c.relkind IN ('r', 'p')
		WHERE g.grantee = 'outbox_relay' AND g.table_schema = 'outbox'
		  AND (g.table_name, g.privilege_type) <> ('topic', 'DELETE') -- no statement needs it
		ORDER BY 1`)
	require.NoError(t, err)
	granted, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, granted, "SELECT ON outbox.dated")
	for _, right := range granted {
		o.exec(`REVOKE ` + right + ` FROM outbox_relay`)
		assert.ErrorContains(t, s.Rights(t.Context()), strings.Replace(right, "ON outbox.", "", 1), "%s: the worker would start and fail later", right)
		o.exec(`GRANT ` + right + ` TO outbox_relay`)
	}
	require.NoError(t, s.Rights(t.Context()))
}

func TestRights_OfAnOlderOutboxNameTheTablesThatItLacks(t *testing.T) {
	o := open(t)
	s := o.asRelay()
	o.exec(`DROP TABLE outbox.dated`)
	require.ErrorContains(t, s.Rights(t.Context()), "has no dated: run")
}

func TestSecurity_APolicyThatShowsTheRoleAllRowsHidesNothing(t *testing.T) {
	o := open(t)
	s := o.asRelay()
	for _, table := range []string{"event", "pending", "lane"} {
		o.exec(`ALTER TABLE outbox.` + table + ` ENABLE ROW LEVEL SECURITY`)
	}
	o.exec(`CREATE POLICY relay ON outbox.pending TO outbox_relay USING (true)`)
	o.exec(`CREATE POLICY relay ON outbox.event FOR SELECT TO outbox_relay USING (true)`)
	require.ErrorContains(t, s.Security(t.Context()), "outbox.lane from")
	o.exec(`CREATE POLICY relay ON outbox.lane TO PUBLIC USING (true) WITH CHECK (topic <> 'x')`)
	require.Error(t, s.Security(t.Context()))
	o.exec(`ALTER POLICY relay ON outbox.lane WITH CHECK (true)`)
	require.NoError(t, s.Security(t.Context()))
	o.exec(`CREATE POLICY tenant ON outbox.pending AS RESTRICTIVE USING (topic <> 'x')`)
	require.ErrorContains(t, s.Security(t.Context()), "outbox.pending from")
}

// An acknowledgement is kept until it is settled.
func TestSettle_OfRowsThatAreHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	s := testOutbox{o.asRelay(), t, o.db}
	_, lease := s.claimOne()
	refs := s.load(lease)
	o.exec(`ALTER TABLE outbox.pending ENABLE ROW LEVEL SECURITY`)
	require.ErrorContains(t, s.Settle(t.Context(), "orders", refs), "row level security")
	o.exec(`ALTER TABLE outbox.pending DISABLE ROW LEVEL SECURITY`)
	require.NoError(t, s.Settle(t.Context(), "orders", refs))
	require.Zero(t, o.pending())
	require.NoError(t, s.Settle(t.Context(), "orders", refs), "again")
}

// The trigger and retention run as the owner.
func TestSecurity_ThatIsForcedOnTheOwnerIsNamedToo(t *testing.T) {
	o := open(t)
	s := o.asRelay()
	o.exec(`ALTER TABLE outbox.event_default ENABLE ROW LEVEL SECURITY`)
	require.NoError(t, s.Security(t.Context()), "the relay reads no partition by its name")
	o.exec(`ALTER TABLE outbox.event_default FORCE ROW LEVEL SECURITY`)
	require.ErrorContains(t, s.Security(t.Context()), "ALTER TABLE outbox.event_default NO FORCE ROW LEVEL SECURITY")
}

func TestWarnings_NameASQLASCIIDatabase(t *testing.T) {
	o := encoded(t, "SQL_ASCII")
	require.Empty(t, o.claim())
	warnings := o.Warnings(t.Context())
	require.Len(t, warnings, 1)
	require.ErrorContains(t, warnings[0].Err, "the database's encoding is SQL_ASCII")
}

func TestSession_OfAnEncodingThatLacksATopicsCharactersNamesTheTopic(t *testing.T) {
	o := encoded(t, "LATIN1")
	require.NoError(t, o.CanHold(t.Context(), []string{"orders", "Müller"}))
	err := o.CanHold(t.Context(), []string{"orders", "ключ"})
	require.ErrorContains(t, err, `topic "ключ"`)
	require.NotContains(t, err.Error(), "orders")
	require.Error(t, o.EnsureLanes(t.Context(), []string{"ключ"}), "it could not start")
}

// statements counts those of a pool.
type statements struct{ n int }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.n++
	return ctx
}
func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A start must not take longer with more topics, and a connection that breaks says nothing about names.
func TestCanHold_AsksOnceForAllTopicsAndTakesNoOtherFaultForTheirNames(t *testing.T) {
	o := open(t)
	topics := make([]string, 2000)
	for i := range topics {
		topics[i] = fmt.Sprint("topic-", i)
	}
	config, count := o.pool.Config(), &statements{}
	config.ConnConfig.Tracer = count
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	first := o.pool
	o.pool = pool
	t.Cleanup(func() { o.pool = first })
	require.NoError(t, o.CanHold(t.Context(), topics))
	require.Equal(t, 1, count.n)
	pool.Close()
	err = o.CanHold(t.Context(), topics)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "encoding")
	require.Less(t, len(err.Error()), 300, "it is one error")
}

func TestSequence_ThatDrawsAheadIsNamed(t *testing.T) {
	o := open(t)
	require.Empty(t, o.Warnings(t.Context()))
	o.exec(`ALTER TABLE outbox.event ALTER COLUMN id SET CACHE 20`)
	warnings := o.Warnings(t.Context())
	require.Len(t, warnings, 1)
	require.Equal(t, "sequence", warnings[0].Check)
	require.ErrorContains(t, warnings[0].Err, "ALTER TABLE outbox.event ALTER COLUMN id SET CACHE 1")
}
