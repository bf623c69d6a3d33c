package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// whereJSON is what where prints of an event with --json.
type whereJSON struct {
	Events []struct {
		EventID, State, ReceiptsFor string
		ReceiptsSince               *time.Time
		Receipts                    []struct {
			PublishedAt            time.Time
			MessageID, Destination string
			Replay                 int64
		}
	}
}

// eventID is that of the event with a payload.
func (o *outbox) eventID(payload string) (id string) {
	o.t.Helper()
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), `SELECT event_id::text FROM outbox.event WHERE payload = $1`, payload).Scan(&id))
	return id
}

// hasReceipts waits until an event has so many receipts.
func (o *outbox) hasReceipts(id string, n int) (w whereJSON) {
	o.t.Helper()
	testenv.Eventually(o.t, 20*time.Second, func() error {
		w = commandJSON[whereJSON](o, "where", id)
		if got := len(w.Events[0].Receipts); got != n {
			return fmt.Errorf("it has %d receipts, not %d", got, n)
		}
		return nil
	})
	return w
}

func sentAt(t *testing.T, m types.Message) time.Time {
	t.Helper()
	ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64)
	require.NoError(t, err)
	return time.UnixMilli(ms)
}

func TestWhere_SaysWhenAndAsWhichMessageATopicWithReceiptsPublished(t *testing.T) {
	off, on := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+"-on")
	o := newOutbox(t, "topics:\n  quiet: {sqs: "+off.name+"}\n  orders: {sqs: "+on.name+", receipts: 7d}\n")
	o.work()
	o.schedule()

	o.write("quiet", "without", 1, 1)
	off.receive(1, 30*time.Second)
	o.drained(10 * time.Second)
	id := o.eventID("without-1")
	out := o.command("where", id).out
	require.Contains(t, out, "off for the topic quiet")
	require.NotContains(t, out, "as message")
	quiet := commandJSON[whereJSON](o, "where", id).Events[0]
	require.Empty(t, quiet.Receipts)
	require.Nil(t, quiet.ReceiptsSince)

	o.write("orders", "with", 3, 1)
	received := on.receive(3, 30*time.Second)
	requireOnce(t, received, "with", 3)
	for _, m := range received {
		id := o.eventID(*m.Body)
		event := o.hasReceipts(id, 1).Events[0]
		require.Equal(t, "168h0m0s", event.ReceiptsFor)
		r := event.Receipts[0]
		require.Equal(t, *m.MessageId, r.MessageID)
		require.Equal(t, on.url, r.Destination)
		require.WithinDuration(t, sentAt(t, m), r.PublishedAt, 2*time.Second)
		out := o.command("where", id).out
		require.Contains(t, out, "not pending: it was published\n")
		require.Contains(t, out, "published "+r.PublishedAt.UTC().Format("2006-01-02 15:04:05")+" UTC as message "+*m.MessageId+" to "+on.url)
	}
	require.Contains(t, o.command("where", "--topic", "orders", "--key", "key-0").out, "as message "+*received[0].MessageId)

	replayed := commandJSON[operated](o, "replay", "orders", "--event-id", o.eventID("with-1"), "--reason", "a test", "--yes")
	again := on.receive(1, 30*time.Second)
	r := o.hasReceipts(o.eventID("with-1"), 2).Events[0].Receipts[1]
	require.Equal(t, *again[0].MessageId, r.MessageID)
	require.Equal(t, replayed.Operation, r.Replay)
	require.Contains(t, o.command("where", o.eventID("with-1")).out, fmt.Sprintf("replay %d: published ", replayed.Operation))
}

// Without a partition no receipt can be written. Everything else goes on.
func TestReceipts_ThatAreLostAreCountedAndNothingElseIsLost(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+", receipts: 7d}\n")
	w := o.work()
	day := `to_char((now() AT TIME ZONE 'UTC')::date, 'YYYYMMDD')`
	o.exec(`DO $$ BEGIN EXECUTE 'ALTER TABLE outbox.receipt DETACH PARTITION outbox.receipt_' || ` + day + `; END $$`)
	o.schedule()
	o.write("orders", "lost", 50, 5)
	requireOnce(t, q.receive(50, 30*time.Second), "lost", 50)
	o.drained(10 * time.Second)
	testenv.Eventually(t, 20*time.Second, func() error {
		m, _ := w.metrics()
		if n := m[`outbox_receipts_lost_total{topic="orders"}`]; n != 50 {
			return fmt.Errorf("%v receipts are lost", n)
		}
		return nil
	})
	require.Contains(t, o.command("where", o.eventID("lost-1")).out, "outbox_receipts_lost_total")
}
