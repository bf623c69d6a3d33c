package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// Silence is what whoever pauses a topic wants, whatever it was in the middle of.
func TestPause_EndsTheTopicsRecoveryAndNothingIsPublishedUntilItIsResumed(t *testing.T) {
	t.Parallel()
	o, q, c, _, _ := brokenOrders(t)
	require.Contains(t, o.starter("pause", "orders", "--by", "ada", "--reason", "their deploy"), "orders: paused")
	back := newQueue(t, q.name)
	r := o.ended(c, "orders")
	require.Equal(t, "ada", r.Paused)
	require.Zero(t, r.Published)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.topic WHERE recovery_paused_until > now()`))
	require.Equal(t, 100, o.pending(), "with the queue back, and no recovery's pause")
	o.unleased() // a batch in retry gives its lanes back with its next attempt
	require.Equal(t, 100, o.pending(), "and that one published nothing either")
	o.starter("resume", "orders", "--by", "ada")
	requireOnce(t, back.receive(100, 60*time.Second), "e", 100)
}

func TestPause_LetsATopicWaitAndTheOthersFlowUntilItIsResumed(t *testing.T) {
	t.Parallel()
	orders, audit := newQueue(t, testenv.Name(t)+"-orders"), newQueue(t, testenv.Name(t)+"-audit")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+orders.name+"}\n  audit: {sqs: "+audit.name+"}\n")
	o.work()
	require.Contains(t, o.starter("pause", "orders", "--by", "ada", "--reason", "their deploy"), "orders: paused")
	require.Contains(t, o.starter("pause", "orders", "--by", "ada", "--reason", "their deploy"), "already")
	require.Contains(t, o.starter("status"), "by ada: their deploy")
	o.schedule()
	o.write("orders", "o", 20, 3)
	o.write("audit", "a", 20, 3)
	requireOnce(t, audit.receive(20, 30*time.Second), "a", 20)
	require.Equal(t, 20, o.count(`SELECT count(*) FROM outbox.pending WHERE topic = 'orders'`))
	require.Contains(t, o.starter("resume", "orders", "--by", "bob", "--json"), `"changed":true`)
	requireOnce(t, orders.receive(20, 30*time.Second), "o", 20)

	for wrong, args := range map[string][]string{
		`unknown topic "odrers": known topics are audit, orders`: {"pause", "odrers", "--reason", "x"},
		"--reason is empty": {"pause", "orders"},
		"--by is empty":     {"resume", "orders", "--by", ""},
		"accepts 1 arg":     {"pause"},
	} {
		out, err := o.tryStarter(args...)
		require.Error(t, err)
		require.Contains(t, out, wrong)
	}
	require.Equal(t, 2, o.count(`SELECT count(*) FROM outbox.operation`))
}
