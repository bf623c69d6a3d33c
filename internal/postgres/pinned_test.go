package postgres

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// frequent runs each frequent read some times.
func (o testOutbox) frequent() {
	o.t.Helper()
	cursor := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	for range 7 { // PostgreSQL would decide after five
		o.see(everything())
		read := o.pages(10, cursor).Events
		_, err := o.Contents(o.t.Context(), read)
		require.NoError(o.t, err)
		_, err = o.Keys(o.t.Context(), read)
		require.NoError(o.t, err)
	}
}

func TestFrequentReads_ArePlannedOnceInASession(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	o.frequent()
	rows, err := o.pinned.own.Query(t.Context(), `
		SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%outbox.event e%' AND statement NOT LIKE '%pg_prepared_statements%'`)
	require.NoError(t, err)
	type kept struct {
		Text            string
		Generic, Custom int64
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[kept])
	require.NoError(t, err)
	var texts []string
	for _, k := range all {
		require.Zero(t, k.Custom, k.Text)
		require.GreaterOrEqual(t, k.Generic, int64(7), k.Text)
		texts = append(texts, k.Text)
	}
	require.Subset(t, texts, []string{lookSQL, pagesSQL})
}

// A plan that is kept must be good for tables of any size: those that are empty now, too.
func TestFrequentReads_PlannedOverEmptyTablesReadThemByIndexes(t *testing.T) {
	o := open(t)
	ctx := t.Context()
	session, err := o.pinned.own.Acquire(ctx)
	require.NoError(t, err)
	defer session.Release()
	d := fmt.Sprintf("'%s', '%s'", time.Now().Add(-time.Hour).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339))
	for sql, args := range map[string]string{
		lookSQL:   fmt.Sprintf("'%s', '{0,1}', '{1}', '{%d}', 7, now(), %s, 1000, 8000", aWorker, math.MaxInt64, d),
		pagesSQL:  fmt.Sprintf("'%s', '{0,1}', '{orders}', '{0}', '{0}', '{100}', 1000, %s, 8000, '{0}'", aWorker, d),
		eventsSQL: "'{1,2}', ARRAY[now(), now()], " + d,
		keysSQL:   "'{1,2}', ARRAY[now(), now()], " + d,
	} {
		_, err = session.Exec(ctx, "DEALLOCATE ALL", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		_, err = session.Exec(ctx, "PREPARE kept AS "+sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		rows, err := session.Query(ctx, "EXPLAIN EXECUTE kept("+args+")", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		all := strings.Join(plan, "\n")
		for _, table := range []string{"event", "pending", "dated"} {
			require.NotContains(t, all, "Seq Scan on "+table, all)
			require.NotContains(t, all, "Bitmap Heap Scan on "+table, all)
		}
		require.NotContains(t, all, "Sort  (", "it would read everything first:\n"+all)
		require.Contains(t, all, "Index Scan using event_")
	}
}

func TestFrequentReads_OfVeryManyPartitionsKeepNoPlan(t *testing.T) {
	o := open(t)
	o.exec(fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..%d LOOP
			EXECUTE format('CREATE TABLE outbox.p%%s PARTITION OF outbox.event FOR VALUES FROM (%%L) TO (%%L)', i,
			               '2001-01-01'::timestamptz + i * interval '1 day', '2001-01-02'::timestamptz + i * interval '1 day');
		END LOOP;
	END $$`, pinnedPartitions))
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	o.frequent()
	require.NotNil(t, o.pinned.off.Load())
	require.ErrorContains(t, *o.pinned.off.Load(), "partitions")
	require.Zero(t, o.pinned.own.Stat().TotalConns())
}

func TestFrequentReads_BehindAPoolerKeepNoPlan(t *testing.T) {
	o := behindPgBouncer(t)
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	o.frequent()
	require.NotNil(t, o.pinned.off.Load())
	require.ErrorContains(t, *o.pinned.off.Load(), "a pooler is in between")
}

// byARole is the store of a role of its own, which acts as the relay.
func (o testOutbox) byARole() (limited testOutbox, role string) {
	o.t.Helper()
	u, err := url.Parse(testenv.RoleURL(o.t, o.db, "outbox_relay")) // makes outbox_relay
	require.NoError(o.t, err)
	role = "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	o.exec(`CREATE ROLE ` + role + ` LOGIN PASSWORD 'x' IN ROLE outbox_relay`)
	o.t.Cleanup(func() {
		_, err := o.db.Exec(context.Background(), `DROP POLICY IF EXISTS a_policy ON outbox.event; DROP ROLE `+role, pgx.QueryExecModeSimpleProtocol)
		require.NoError(o.t, err)
	})
	q := u.Query()
	q.Del("role")
	u.RawQuery, u.User = q.Encode(), url.UserPassword(role, "x")
	return openBy(o.t, u.String(), u.String()), role
}

func TestFrequentReads_UseTheOtherConnectionsIfTheRoleMayHaveNoMore(t *testing.T) {
	o := open(t)
	limited, role := o.byARole()
	o.exec(`ALTER ROLE ` + role + ` CONNECTION LIMIT 1`)
	limited.db.Close()
	limited.roundsOnlyByHand()
	require.NoError(t, limited.Reach(t.Context())) // has the only connection
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	for range 3 {
		require.Len(t, limited.see(everything()).Events, 3)
	}
	require.Nil(t, limited.pinned.off.Load(), "it tries again")
}

// A plan has the policies for the roles that a role was a member of when it was made.
// A connection that hangs, such as behind a full table of a firewall, has no error but the deadline.
func TestFrequentReads_UseTheOtherConnectionsIfNoNewOneAnswers(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	require.NoError(t, o.Reach(t.Context()))
	var hangs atomic.Bool
	s, err := Open(t.Context(), Config{URL: o.cfg.URL, Password: func(ctx context.Context) (string, error) {
		if hangs.Load() {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "", nil
	}})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	limited := testOutbox{s, t, o.db}
	limited.roundsOnlyByHand()
	require.NoError(t, limited.Reach(t.Context()))
	hangs.Store(true)
	for range 3 {
		require.Len(t, limited.see(everything()).Events, 3)
	}
	hangs.Store(false)
}

func TestFrequentReads_KeepNoPlanWithAPolicy(t *testing.T) {
	o := open(t)
	limited, role := o.byARole()
	_, group := o.byARole()
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	require.Len(t, limited.see(everything()).Events, 3) // planned without a policy
	require.Nil(t, limited.pinned.off.Load())

	o.exec(`CREATE POLICY a_policy ON outbox.event FOR SELECT TO ` + group + ` USING (true)`)
	o.exec(`ALTER TABLE outbox.event ENABLE ROW LEVEL SECURITY`)
	_, err := limited.Look(t.Context(), everything())
	require.ErrorContains(t, err, "row level security")
	o.exec(`GRANT ` + group + ` TO ` + role)
	for range 3 {
		require.Len(t, limited.see(everything()).Events, 3, "a plan without the policy of the group is used")
	}
	require.ErrorContains(t, *limited.pinned.off.Load(), "row level security")

	another := openBy(t, limited.cfg.URL, limited.cfg.URL)
	require.Len(t, another.see(everything()).Events, 3)
	require.ErrorContains(t, *another.pinned.off.Load(), "row level security")
}

func TestFrequentReads_GoOnAfterATableOfTheirsHasChanged(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	o.frequent()
	o.exec(`ALTER TABLE outbox.event ADD COLUMN mine int`)
	o.exec(`ALTER TABLE outbox.pending ALTER COLUMN bytes TYPE bigint`)
	defer o.exec(`ALTER TABLE outbox.pending ALTER COLUMN bytes TYPE int`)
	require.Eventually(t, func() bool {
		_, err := o.Look(t.Context(), everything())
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.Len(t, o.see(everything()).Events, 3)
	require.Nil(t, o.pinned.off.Load())
}
