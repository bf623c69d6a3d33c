package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestAPausedTopicWaitsAndTheOthersFlowUntilItIsResumed(t *testing.T) {
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
		`unknown topic "odrers": there are audit, orders`: {"pause", "odrers", "--reason", "x"},
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
