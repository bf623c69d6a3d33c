package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// oversize is larger than SQS accepts.
const oversize = `repeat('x', 1100000)`

func TestPoison_NeverBlocksItsBatchAndIsADeadLetterWithItsReason(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	o.write("orders", "e", 100, 10)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'key-1', 'Tested', ` + oversize + `)`)
	// Legal in a PostgreSQL text, not in a message: SQL producers are not checked.
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'key-2', 'Tested', E'bell \x07')`)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'key-' || i % 10, 'Tested', 'e-' || 100 + i FROM generate_series(1, 100) i`)
	o.schedule()
	o.drained(30 * time.Second)
	requireOnce(t, q.receive(200, 30*time.Second), "e", 200)
	require.Equal(t, 2, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.dead_letter
	    WHERE code = 'EventTooLarge' AND message LIKE '%1100%bytes%1048576%' AND key = 'key-1' AND workflow_id LIKE '%'`))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code = 'InvalidCharacter' AND message = 'payload has U+0007 at byte 5' AND key = 'key-2'`))
	require.Contains(t, o.starter("status"), "orders")
}

// With block, what comes after a poison event of its key follows it, in order, so
// that a redrive can bring all of it in order.
func TestPoison_WithBlockHoldsItsKeyBackAndNoOther(t *testing.T) {
	t.Parallel()
	for onPoison, dead := range map[string]int{"continue": 1, "block": 11} {
		t.Run(onPoison, func(t *testing.T) {
			q := newQueue(t, testenv.Name(t)+".fifo")
			o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+", onPoison: "+onPoison+"}\n")
			o.work()
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'bad', 'Tested', ` + oversize + `)`)
			for i := range 10 {
				o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
				        SELECT 'orders', key, 'Tested', key || '-' || $1::int FROM unnest('{bad,good}'::text[]) key`, i)
			}
			o.schedule()
			o.drained(30 * time.Second)
			require.Equal(t, dead, o.count(`SELECT count(*) FROM outbox.dead_letter`))
			got := bodies(q.receive(21-dead, 30*time.Second))
			for i := range 10 {
				require.Equal(t, 1, got[fmt.Sprintf("good-%d", i)])
			}
			require.Equal(t, dead-1, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code = 'BlockedBehind' AND key = 'bad'`))

			// It stays so for what is written later.
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'bad', 'Tested', 'late')`)
			o.drained(30 * time.Second)
			require.Equal(t, onPoison == "block", o.count(`SELECT count(*) FROM outbox.dead_letter`) == dead+1)
		})
	}
}

// Two relays on one outbox is a mistake, but not one that harms anybody.
func TestRelay_ASecondOnOneOutboxPublishesNothingThatTheFirstHolds(t *testing.T) {
	t.Parallel()
	const n = 5000
	q := newQueue(t, testenv.Name(t))
	config := "topics:\n  orders: {sqs: " + q.name + "}\n"
	o := newOutbox(t, config)
	second := newOutbox(t, config)
	for i, v := range second.env {
		if v == "DATABASE_URL="+second.url {
			second.env[i] = "DATABASE_URL=" + o.url
		}
	}
	o.work()
	second.work()
	o.schedule()
	second.schedule()
	o.write("orders", "e", n, 500)
	o.drained(60 * time.Second)
	requireOnce(t, q.receive(n, 60*time.Second), "e", n)
}
