package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	producer "github.com/temporal-outbox/relay/outbox"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestDelivery_OfACommittedEventThroughSNSAndNeverOfARolledBackOne(t *testing.T) {
	t.Parallel()
	name := testenv.Name(t)
	q := newQueue(t, name)
	newTopic(t, name, q)
	o := newOutbox(t, "topics:\n  orders: {sns: "+name+"}\n")
	o.work()
	o.schedule()

	event := producer.Event{
		ID: producer.NewID(), Topic: "orders", Key: "order 1", Type: "OrderPlaced",
		Payload: `{"n": "größer"}`, Attributes: map[string]string{"tenant": "t1"},
	}
	boom := errors.New("roll back")
	err := pgx.BeginFunc(t.Context(), o.db, func(tx pgx.Tx) error {
		require.NoError(t, producer.Write(t.Context(), tx, producer.Event{Topic: "orders", Type: "Never", Payload: "rolled back"}))
		return boom
	})
	require.ErrorIs(t, err, boom)
	require.NoError(t, pgx.BeginFunc(t.Context(), o.db, func(tx pgx.Tx) error {
		return producer.Write(t.Context(), tx, event)
	}))

	o.drained(20 * time.Second)
	messages := q.receive(1, 10*time.Second)
	require.Len(t, messages, 1)
	m := messages[0]
	require.Equal(t, event.Payload, *m.Body)
	got := map[string]string{}
	for name, a := range m.MessageAttributes {
		got[name] = *a.StringValue
	}
	require.Equal(t, map[string]string{
		"event_id": event.ID.String(), "event_type": "OrderPlaced", "content_type": "application/json", "tenant": "t1",
	}, got)
}

func TestDelivery_OfARowThatTheProducerRoleInsertsWithPsql(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	testenv.RoleURL(t, o.db, "outbox_producer")
	o.work()
	o.schedule()
	psql := exec.CommandContext(t.Context(), psqlPath(t), o.url, "-v", "ON_ERROR_STOP=1", "-q",
		"-c", "SET ROLE outbox_producer",
		"-c", `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', '4711', 'OrderPaid', '{"by": "psql"}')`)
	out, err := psql.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, map[string]int{`{"by": "psql"}`: 1}, bodies(q.receive(1, 20*time.Second)))
}

func psqlPath(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("psql"); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if dir := os.Getenv("OUTBOX_PG_BIN"); dir != "" {
		found = append(found, filepath.Join(dir, "psql"))
	}
	require.NotEmpty(t, found, "psql is not on PATH")
	return found[len(found)-1]
}

func TestDelivery_KeepsCommitOrderOfEachKeyOnAFIFOQueue(t *testing.T) {
	t.Parallel()
	name := testenv.Name(t) + ".fifo"
	q := newQueue(t, name)
	newTopic(t, name, q)
	o := newOutbox(t, "topics:\n  ledger: {sns: "+name+"}\n")
	o.work()
	o.work()
	o.schedule()

	const writers, each, keys = 4, 40, 5
	done := make(chan error, writers)
	for w := range writers {
		go func() {
			for i := range each {
				err := pgx.BeginFunc(t.Context(), o.db, func(tx pgx.Tx) error {
					key := fmt.Sprint("account ", (w+i)%keys) // a space is not allowed in a group id
					// The number is drawn under the key's lock, so it is in commit order.
					if _, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('outbox/ledger/' || $1, 0))`, key); err != nil {
						return err
					}
					var n int
					if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM outbox.event WHERE key = $1`, key).Scan(&n); err != nil {
						return err
					}
					payload := fmt.Sprintf(`{"key": %q, "n": %d}`, key, n)
					return producer.Writer{SerializeKeys: true}.Write(t.Context(), tx, producer.Event{Topic: "ledger", Key: key, Type: "Posted", Payload: payload})
				})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		require.NoError(t, <-done)
	}
	o.drained(60 * time.Second)
	came := map[string][]int{}
	for _, m := range q.receive(writers*each, 30*time.Second) {
		var e struct {
			Key string
			N   int
		}
		require.NoError(t, json.Unmarshal([]byte(*m.Body), &e))
		came[e.Key] = append(came[e.Key], e.N)
	}
	require.Len(t, came, keys)
	for key, numbers := range came {
		for i, n := range numbers {
			require.Equal(t, i, n, "%s came as %v", key, numbers)
		}
	}
}

func TestPayload_EntersNoHistoryAndNoLog(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n  broken: {sqs: there-is-no-such-queue}\n")
	w := o.work("OUTBOX_LOG_LEVEL=debug")
	o.schedule("--run-for", "3s")
	const marker = "s3cr3t"
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes)
	        SELECT t, 'key-' || i, 'Tested', 's3cr3t-' || i, '{"a": "s3cr3t"}'
	        FROM generate_series(1, 1200) i, unnest(ARRAY['orders', 'broken']) t`)
	for _, m := range q.receive(1200, 30*time.Second) {
		require.Contains(t, *m.Body, marker, "the marker is in what is published")
	}
	c := testenv.Temporal(t)
	done := o.completed(c, 1, func(cond func() error) { testenv.Eventually(t, 60*time.Second, cond) })
	seen := ""
	for _, r := range done {
		seen += historyText(t, c, r)
	}
	require.Contains(t, seen, `"topic":"orders"`, "the histories are read, and decoded")
	require.Contains(t, seen, "broken · ", "also summaries")
	require.NotContains(t, seen, marker)
	require.NotContains(t, w.text(), marker)
}

func TestRelay_ResultOfARunCountsPublishedEvents(t *testing.T) {
	t.Parallel()
	for mode, summary := range map[string]string{
		shared:   "lanes of all topics · worker seat",
		perTopic: "audit · 3 events · lane",
	} {
		t.Run(mode, func(t *testing.T) {
			q, r := newQueue(t, testenv.Name(t)+"-1"), newQueue(t, testenv.Name(t)+"-2")
			o := newOutbox(t, "topics:\n  audit: {sqs: "+q.name+", fair: true}\n  orders: {sqs: "+r.name+"}\n")
			o.write("orders", "o", 700, 50)
			o.write("audit", "a", 3, 2)
			o.work(mode)
			o.schedule("--run-for", "5s")
			c := testenv.Temporal(t)
			done := o.completed(c, 1, func(cond func() error) { testenv.Eventually(t, 60*time.Second, cond) })
			first := done[len(done)-1]
			var result struct {
				Published, Batches int
				Topics             []struct {
					Topic     string
					Published int
				}
			}
			require.NoError(t, c.GetWorkflow(t.Context(), first.id, first.runID).Get(t.Context(), &result))
			require.Equal(t, 703, result.Published)
			require.Len(t, result.Topics, 2)
			require.Equal(t, "audit", result.Topics[0].Topic)
			require.Equal(t, 700, result.Topics[1].Published)

			var summaries []string
			h := history(t, c, first)
			for _, e := range h.Events {
				if e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == "PublishBatch" {
					summaries = append(summaries, string(e.GetUserMetadata().GetSummary().GetData()))
				}
			}
			require.True(t, slices.ContainsFunc(summaries, func(s string) bool { return strings.Contains(s, summary) }), "%v", summaries)
		})
	}
}
