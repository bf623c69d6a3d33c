package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// SNS accepts such messages and does not deliver them to queues. They are not sent.
func TestCharacters_ThatADestinationLosesAreDeadLettersThatSayWhere(t *testing.T) {
	for _, kind := range []string{"sns", "sqs"} {
		t.Run(kind, func(t *testing.T) {
			name := testenv.Name(t)
			q := newQueue(t, name)
			if kind == "sns" {
				newTopic(t, name, q)
			}
			o := newOutbox(t, "topics:\n  orders: {"+kind+": "+name+"}\n")
			o.write("orders", "e", 50, 10)
			// Written before the table had rules for types and attributes.
			testenv.Unchecked(t, o.db)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes) VALUES
				('orders', 'a', 'Tested', E'a\x0bb', 'text/plain', '{}'),
				('orders', 'b', E'Tes\tted', 'b', 'text/plain', '{}'),
				('orders', 'c', 'Tested', 'c', E'text/plain\n', '{}'),
				('orders', 'd', 'Tested', 'd', 'text/plain', '{"tenant": "x\ty"}'),
				('orders', 'e', 'Tested', E'\uffff', 'text/plain', '{}'),
				('orders', E'f\x01 g', 'Tested', E'lines\r\n\tof text', 'text/plain', '{}')`)
			o.work()
			o.schedule()
			o.drained(30 * time.Second)
			require.Contains(t, bodies(q.receive(51, 30*time.Second)), "lines\r\n\tof text", "any key, and a body of lines")
			require.Equal(t, 5, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code = 'InvalidCharacter'`))
			require.Equal(t, 5, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE (key, message) IN (VALUES
				('a', 'payload has U+000B at byte 1'), ('b', 'type has U+0009 at byte 3'), ('c', 'content_type has U+000A at byte 10'),
				('d', 'attribute "tenant" has U+0009 at byte 1'), ('e', 'payload has U+FFFF at byte 0'))`))
			require.Equal(t, 5, o.count(`SELECT count(*) FROM outbox.dead_letter`))
		})
	}
}
