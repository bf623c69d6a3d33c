package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestPoison_InFullFlowOfTwoWorkersBecomesDeadLettersAndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	n := many() / 2
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	o.work()
	o.schedule()
	o.write("orders", "e", n/2, 500)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT 'orders', 'key-' || i, 'Tested', ` + oversize + ` FROM generate_series(1, 15) i`)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT 'orders', 'key-' || i % 500, 'Tested', CASE WHEN i % 50 = 0 THEN E'bell \x07' ELSE 'e-' || i END
	        FROM generate_series($1::int, $2::int) i`, n/2+1, n)
	o.drained(60 * time.Second)
	bad := n/50 - n/2/50
	messages := q.receive(n-bad, 60*time.Second)
	require.Len(t, bodies(messages), n-bad, "what is not poison")
	require.Equal(t, n-bad, published(messages), "nothing came twice")
	require.Equal(t, 15, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code = 'EventTooLarge'`))
	require.Equal(t, bad, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code LIKE 'Invalid%'`))
	require.Equal(t, bad+15, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	o.unleased()
}

// Somebody deletes rows with psql. There is nothing to publish any more, but that
// there was is not forgotten, and nobody waits for it.
func TestPoison_AnEventDeletedWhilePendingIsADeadLetterThatSaysSo(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.write("orders", "e", 1000, 50)
	o.exec(`DELETE FROM outbox.event WHERE payload IN ('e-1', 'e-500', 'e-1000')`)
	require.Equal(t, 1000, o.pending(), "deleting an event does not settle it")
	o.work()
	o.schedule()
	o.drained(30 * time.Second)
	got := bodies(q.receive(997, 30*time.Second))
	require.Len(t, got, 997)
	for _, gone := range []int{1, 500, 1000} {
		require.NotContains(t, got, fmt.Sprintf("e-%d", gone))
	}
	require.Equal(t, 3, o.count(`SELECT count(*) FROM outbox.dead_letter
	    WHERE code = 'EventMissing' AND message LIKE '%two looks did not find it in outbox.event%'`))
	require.Equal(t, 3, o.count(`SELECT count(*) FROM outbox.dead_letter`))

	// docs/errors.md says so.
	require.Equal(t, 3, strings.Count(o.starter("dead", "list", "orders"), "gone (id "))
	done := commandJSON[operated](o, "dead", "discard", "orders", "--code", "EventMissing", "--by", "ada", "--reason", "restored", "--yes")
	require.EqualValues(t, 3, done.Done)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`))
}
