package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// SNS accepts such messages and does not deliver them to queues, or they cannot be
// messages at all. They are not sent, and no other event waits for them.
func TestCharacters_ThatADestinationLosesAreDeadLettersThatSayWhere(t *testing.T) {
	t.Parallel()
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
				('orders', 'e', 'Tested', 'i', 'text/plain', '{"attempt": 1}'),
				('orders', 'e', 'Tested', 'j', 'text/plain', '[]'),
				('orders', 'e', 'Tested', 'k', 'text/plain', 'null'),
				('orders', 'e', 'Tested', 'l', 'text/plain', '{"a": null}'),
				('orders', 'e', 'Tested', 'm', 'text/plain', '{"a b": "x"}'),
				('orders', 'e', 'Tested', 'n', 'text/plain', '{"event_id": "x"}'),
				('orders', 'e', 'Tested', '', 'text/plain', '{}'),
				('orders', 'e', '', 'o', 'text/plain', '{}'),
				('orders', E'f\x01 g', 'Tested', E'lines\r\n\tof text', 'text/plain', '{}')`)
			o.work()
			o.schedule()
			o.drained(30 * time.Second)
			require.Contains(t, bodies(q.receive(51, 30*time.Second)), "lines\r\n\tof text", "any key, and a body of lines")
			require.Equal(t, 5, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE code = 'InvalidCharacter'`))
			require.Equal(t, 5, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE (key, message) IN (VALUES
				('a', 'payload has U+000B at byte 1'), ('b', 'type has U+0009 at byte 3'), ('c', 'content_type has U+000A at byte 10'),
				('d', 'attribute "tenant" has U+0009 at byte 1'), ('e', 'payload has U+FFFF at byte 0'))`))
			require.Equal(t, 8, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE (code, message) IN (VALUES
				('InvalidEvent', 'attributes is not an object of strings'), ('InvalidEvent', 'attribute "a": the value is empty'),
				('InvalidEvent', 'attribute "a b": AWS does not allow this name'),
				('InvalidEvent', 'attribute "event_id": the name is used by the relay'), ('InvalidEvent', 'payload is empty'), ('InvalidEvent', 'type is empty'))`))
			require.Equal(t, 13, o.count(`SELECT count(*) FROM outbox.dead_letter`))
		})
	}
}
