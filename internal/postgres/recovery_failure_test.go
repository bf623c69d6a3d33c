package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// failures are what every place that shows a topic says of why it waits.
func (o testOutbox) failures(topic string) (status, lane *relay.Failure, sample relay.Failure, view string) {
	o.t.Helper()
	topics, err := o.Status(o.t.Context())
	require.NoError(o.t, err)
	for _, s := range topics {
		if s.Topic == topic {
			status = s.Failure
		}
	}
	sample = o.topics()[topic].Failure
	lives, err := o.ByKey(o.t.Context(), topic, "k1", 1, nil)
	require.NoError(o.t, err)
	require.Len(o.t, lives, 1)
	view = query[string](o, `SELECT concat_ws(', ', recovery_workflow_id, failure_code, failure_message, failure_destination,
	    CASE WHEN failing_since <= now() THEN 'since' END, CASE WHEN next_attempt_at > failing_since THEN 'next' END)
	    FROM outbox.status WHERE topic = $1 AND key = 'k1' ORDER BY id DESC LIMIT 1`, topic)
	return status, lives[0].Failure, sample, view
}

// noFailure makes sure that no place shows one.
func (o testOutbox) noFailure(topic, view string) {
	o.t.Helper()
	status, lane, sample, viewed := o.failures(topic)
	require.Nil(o.t, status)
	require.Zero(o.t, sample)
	require.Nil(o.t, lane)
	require.Equal(o.t, view, viewed)
}

var missing = relay.Failure{Code: "NonExistentQueue", Message: "The specified queue does not exist.", Destination: "SQS queue orders"}

func TestNoteFailure_IsShownWhereverTheTopicIsUntilItIsResumed(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.write("orders", 1)
	o.noFailure("orders", "")
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "outbox-recovery/orders", time.Minute))
	o.noFailure("orders", "outbox-recovery/orders")

	before := query[time.Time](o, `SELECT now()`)
	require.NoError(t, o.NoteFailure(t.Context(), "orders", "outbox-recovery/orders", missing, 16*time.Second))
	status, lane, sample, view := o.failures("orders")
	require.Equal(t, "outbox-recovery/orders, NonExistentQueue, The specified queue does not exist., SQS queue orders, since, next", view)
	require.Equal(t, status, lane)
	require.Equal(t, *status, sample)
	require.WithinRange(t, status.Since, before, before.Add(10*time.Second))
	require.Equal(t, 16*time.Second, status.Next.Sub(status.Since))
	status.Since, status.Next = time.Time{}, time.Time{}
	require.Equal(t, missing, *status)

	require.NoError(t, o.EndRecoveryHold(t.Context(), "orders", "outbox-recovery/orders"))
	o.noFailure("orders", "")
	require.Zero(t, query[int](o, `SELECT num_nonnulls(failure_code, failure_message, failure_destination, failing_since, next_attempt_at) FROM outbox.topic`))
}

func TestNoteFailure_KeepsSinceWhenAndTheLastReason(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.write("orders", 1)
	since := func() time.Time { return query[time.Time](o, `SELECT failing_since FROM outbox.topic`) }
	fails := func(code string) {
		require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "r", time.Minute))
		require.NoError(t, o.NoteFailure(t.Context(), "orders", "r", relay.Failure{Code: code}, time.Second))
	}
	fails("Throttled")
	first := since()
	fails("AccessDenied")
	require.Equal(t, first, since())
	status, _, _, _ := o.failures("orders")
	require.Equal(t, "AccessDenied", status.Code)

	require.NoError(t, o.NoteFailure(t.Context(), "orders", "of another namespace", relay.Failure{Code: "NotMine"}, 0))
	status, _, _, _ = o.failures("orders")
	require.Equal(t, "AccessDenied", status.Code, "another workflow's is not this topic's")

	// Nobody resumed it: its recovery was terminated, and it may have been published since.
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = now()`)
	o.noFailure("orders", "")
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "r", time.Minute))
	o.noFailure("orders", "r")
	fails("NotFound")
	require.NotEqual(t, first, since())
}

// A worker of the version before pauses and resumes without these columns.
func TestNoteFailure_ThatAnEarlierVersionLeftBehindIsNotShownForLong(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.write("orders", 1)
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "r", time.Minute))
	require.NoError(t, o.NoteFailure(t.Context(), "orders", "r", missing, time.Minute))
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = NULL, recovery_workflow_id = NULL`)
	o.noFailure("orders", "")
	o.exec(`INSERT INTO outbox.topic AS t (topic, recovery_paused_until, recovery_workflow_id) VALUES ('orders', now() + interval '1 minute', 'r')
	        ON CONFLICT (topic) DO UPDATE SET recovery_paused_until = excluded.recovery_paused_until, recovery_workflow_id = excluded.recovery_workflow_id`)
	o.exec(`UPDATE outbox.topic SET next_attempt_at = next_attempt_at - interval '6 minutes'`)
	o.noFailure("orders", "r")
	require.NoError(t, o.NoteFailure(t.Context(), "orders", "r", missing, 0))
	status, _, _, _ := o.failures("orders")
	require.NotNil(t, status)
}

func TestNoteFailure_OfAnyTextIsKept(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.write("orders", 1)
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "r", time.Minute))
	f := relay.Failure{Code: "C", Message: "a\x00b \xff \" \\ \x1b[31m " + strings.Repeat("ü", 400)}
	require.NoError(t, o.NoteFailure(t.Context(), "orders", "r", f, 0))
	status, _, sample, _ := o.failures("orders")
	require.Equal(t, "a\uFFFDb \uFFFD \" \\ \x1b[31m "+strings.Repeat("ü", 400), status.Message)
	require.Len(t, []rune(sample.Message), 200, "histories keep no more")
}
