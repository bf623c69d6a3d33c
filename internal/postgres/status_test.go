package postgres

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestStatus_CountsPendingDeadAndPaused(t *testing.T) {
	o := open(t)
	o.write("orders", 7)
	o.write("audit", 2)
	o.exec(`UPDATE outbox.pending SET created_at = now() - interval '1 minute' WHERE topic = 'orders'`)
	o.exec(`INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
	        VALUES ('audit', 1, 99, now(), 5, 'X', 'x', 1, 'w')`)
	o.exec(`INSERT INTO outbox.topic (topic, paused_at, paused_by, pause_reason) VALUES ('payments', now(), 'me', 'because')`)
	o.claim()
	require.NoError(t, o.HoldForRecovery(t.Context(), "audit", "outbox-recovery/audit", time.Minute))
	require.NoError(t, o.HoldForRecovery(t.Context(), "payments", "over", -time.Minute))
	topics, err := o.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, topics, 3)
	audit, orders, payments := topics[0], topics[1], topics[2]
	require.Equal(t, []any{"audit", int64(2), int64(1)}, []any{audit.Topic, audit.Pending, audit.Dead})
	require.Equal(t, []any{"orders", int64(7), int64(0)}, []any{orders.Topic, orders.Pending, orders.Dead})
	require.InDelta(t, 60, orders.OldestAge, 20)
	require.Positive(t, orders.Leased)
	require.Equal(t, []string{"payments", "me", "because"}, []string{payments.Topic, payments.PausedBy, payments.PauseReason})
	require.NotNil(t, payments.PausedAt)
	require.Equal(t, "outbox-recovery/audit", audit.Recovery)
	require.Empty(t, payments.Recovery)
}

func TestCheck_NamesTheRemedy(t *testing.T) {
	o := open(t)
	require.NoError(t, o.Check(t.Context()))

	base := o.pool.Config().ConnString()
	testenv.RoleURL(t, o.db, "outbox_relay")
	o.exec(`DROP ROLE IF EXISTS outbox_test_stranger; CREATE ROLE outbox_test_stranger LOGIN`)
	t.Cleanup(func() { _, _ = o.db.Exec(context.Background(), `DROP ROLE IF EXISTS outbox_test_stranger`) })
	stranger, err := url.Parse(base)
	require.NoError(t, err)
	stranger.User = url.User("outbox_test_stranger")
	require.ErrorContains(t, check(t, stranger.String()), "grant outbox_relay")

	o.exec(`GRANT outbox_relay TO outbox_test_stranger`)
	require.NoError(t, check(t, stranger.String()))

	for revoke, want := range map[string]string{
		`REVOKE EXECUTE ON FUNCTION outbox.make_partition(date) FROM outbox_relay`: "it lacks EXECUTE make_partition(date): run schema/roles.sql",
		`REVOKE EXECUTE ON FUNCTION outbox.drop_partition(date) FROM outbox_relay`: "EXECUTE drop_partition(date)",
		`REVOKE EXECUTE ON FUNCTION outbox.caught() FROM outbox_relay`:             "EXECUTE caught()",
		`REVOKE INSERT ON outbox.operation FROM outbox_relay`:                      "INSERT operation",
		`REVOKE UPDATE (workflow_id) ON outbox.operation FROM outbox_relay`:        "it lacks UPDATE operation.workflow_id: run schema/roles.sql",
		`REVOKE UPDATE (done) ON outbox.operation FROM outbox_relay`:               "it lacks UPDATE operation.done: run",
		`REVOKE UPDATE (next_after) ON outbox.operation FROM outbox_relay`:         "it lacks UPDATE operation.next_after: run",
		`REVOKE UPDATE (lanes_after) ON outbox.operation FROM outbox_relay`:        "it lacks UPDATE operation.lanes_after: run",
		`REVOKE UPDATE (finished_at) ON outbox.operation FROM outbox_relay`:        "it lacks UPDATE operation.finished_at: run",
		`REVOKE UPDATE (outcome) ON outbox.operation FROM outbox_relay`:            "it lacks UPDATE operation.outcome: run",
		`REVOKE DELETE ON outbox.pending FROM outbox_relay`:                        "DELETE pending",
		`REVOKE USAGE ON SCHEMA outbox FROM outbox_relay`:                          "USAGE of the schema",
	} {
		o.exec(revoke)
		err := check(t, stranger.String())
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "outbox_test_stranger")
		o.exec(strings.Replace(strings.Replace(revoke, "REVOKE", "GRANT", 1), "FROM", "TO", 1))
	}
	require.NoError(t, check(t, stranger.String()))

	o.exec(`ALTER TABLE outbox.topic RENAME COLUMN failing_since TO something_else`)
	require.ErrorContains(t, check(t, base), `has no topic.failing_since: run "starter migrate"`)
	o.exec(`ALTER TABLE outbox.topic RENAME COLUMN something_else TO failing_since`)

	o.exec(`ALTER TABLE outbox.operation RENAME COLUMN next_after TO something_else`)
	require.ErrorContains(t, check(t, base), `has no operation.next_after: run "starter migrate"`)

	o.exec(`DROP TABLE outbox.operation`)
	require.ErrorContains(t, check(t, base), `has no operation: run "starter migrate"`)

	o.exec(`DROP SCHEMA outbox CASCADE`)
	require.ErrorContains(t, check(t, base), "starter migrate")

	stranger.Host = "127.0.0.1:1"
	require.ErrorContains(t, check(t, stranger.String()), "connect to the database")
}

func check(t *testing.T, url string) error {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: url})
	require.NoError(t, err)
	defer s.Close()
	return s.Check(t.Context())
}

// Everything the relay does, it can do with the rights that the script grants.
func TestRelayRole_Suffices(t *testing.T) {
	o := open(t)
	s := o
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	s.Store = limited
	require.NoError(t, s.Check(t.Context()))
	require.NoError(t, s.EnsureLanes(t.Context(), []string{"orders", "audit"}))
	o.write("orders", 20)
	_, lease := s.claimOne()
	require.Len(t, s.drain(lease), 20)
	_, err = s.Status(t.Context())
	require.NoError(t, err)
	s.write("audit", 2)
	_, lease = s.claimOne()
	refs := s.load(lease)
	_, err = s.Refuse(t.Context(), "audit", refusedAs("X", refs...))
	require.NoError(t, err)
	_, err = s.Refuse(t.Context(), "audit", refusedAs("X", refs...))
	require.NoError(t, err)
	require.NoError(t, s.DeadLetter(t.Context(), lease, "relay", refusedAs("X", refs...)))
	_, err = s.Blocked(t.Context(), "audit", []string{"k1"})
	require.NoError(t, err)
	require.NoError(t, s.forgetRefusals(t.Context()))
	require.NoError(t, s.HoldForRecovery(t.Context(), "audit", "recovery", time.Minute))
	require.NoError(t, s.HoldForRecovery(t.Context(), "audit", "recovery", time.Minute))
	require.NoError(t, s.NoteFailure(t.Context(), "audit", "recovery", relay.Failure{Code: "NotFound"}, time.Minute))
	require.NoError(t, s.EndRecoveryHold(t.Context(), "audit", "recovery"))
	_, err = s.MakePartitions(t.Context(), 20, nil)
	require.NoError(t, err)
	o.exec(`SELECT outbox.make_partition(` + expired + `)`)
	done, err := s.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Len(t, done.Dropped, 1)
	_, err = s.Health(t.Context())
	require.NoError(t, err)

	_, err = s.pool.Exec(t.Context(), `UPDATE outbox.event SET payload = 'x'`)
	require.ErrorContains(t, err, "permission denied", "the role is really in use, and cannot change events")
}
