package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// workTraced starts a worker that sends its spans to a collector.
func (o *outbox) workTraced(c *testenv.Collector, env ...string) *worker {
	o.t.Helper()
	return o.work(append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL)...)
}

func TestTraces_OfAnIdleRelayAreNone(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{shared, perTopic} {
		t.Run(mode, func(t *testing.T) {
			o := newOutbox(t, "topics:\n  orders: {sqs: "+newQueue(t, testenv.Name(t)).name+"}\n")
			collector := testenv.NewCollector(t)
			idle := o.workTraced(collector, mode)
			o.schedule("--run-for", "3s")
			o.completed(testenv.Temporal(t), 1, func(cond func() error) { testenv.Eventually(t, 60*time.Second, cond) })
			idle.stop() // what there is has left by then
			require.Empty(t, collector.Spans())
		})
	}
}

func TestTraces_OfOneEventAreOneSpanInASharedLaneAndTwoInABatch(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	collector := testenv.NewCollector(t)
	sharing := o.workTraced(collector, shared)
	o.schedule("--run-for", "3s")
	o.sharesBecome(20*time.Second, 16)
	o.write("orders", "o", 1, 1)
	requireOnce(t, q.receive(1, 30*time.Second), "o", 1)
	o.drained(10 * time.Second)
	sharing.stop()
	require.Len(t, collector.Spans(), 1)
	sent := collector.Spans()[0]
	require.Equal(t, "send "+q.name, sent.Name)
	require.Empty(t, sent.Parent)

	c := testenv.Temporal(t)
	busy := o.workTraced(collector, perTopic)
	o.write("orders", "o", 1, 1)
	require.NoError(t, c.ScheduleClient().GetHandle(t.Context(), o.queue).Trigger(t.Context(), client.ScheduleTriggerOptions{}))
	requireOnce(t, q.receive(1, 30*time.Second), "o", 1)
	o.drained(10 * time.Second)
	busy.stop()
	spans := collector.Spans()
	require.Len(t, spans, 3)
	batch, request := spans[1], spans[2]
	require.Equal(t, "RunActivity:PublishBatch", batch.Name)
	require.Empty(t, batch.Parent)
	require.Contains(t, batch.Attributes["temporalWorkflowID"], o.queue)
	require.Equal(t, "send "+q.name, request.Name)
	require.Equal(t, batch.ID, request.Parent)
	require.Empty(t, request.Links, "the event has no trace")
	require.Equal(t, "outbox-relay", request.Service)
}

func TestTraces_HoldNoPayloadAndEnterNoHistory(t *testing.T) {
	t.Parallel()
	q, gone := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+"-gone")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n  broken: {sqs: there-is-no-such-queue}\n  gone: {sqs: "+gone.name+"}\n")
	collector := testenv.NewCollector(t)
	w := o.workTraced(collector)
	_, err := gone.sqs.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &gone.url}) // it was there when the worker began
	require.NoError(t, err)
	o.schedule("--run-for", "3s")
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes)
	        SELECT t, 's3cr3t-' || i, 'Tested', 's3cr3t-' || i, jsonb_build_object('a', 's3cr3t', 'traceparent', $1::text)
	        FROM generate_series(1, 300) i, unnest(ARRAY['orders', 'broken', 'gone']) t`, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	q.receive(300, 30*time.Second)
	c := testenv.Temporal(t)
	done := o.completed(c, 1, func(cond func() error) { testenv.Eventually(t, 60*time.Second, cond) })
	w.stop()

	failed := map[string]int{}
	for _, s := range collector.Spans() {
		if s.Error != "" {
			failed[s.Name]++
		}
	}
	require.Positive(t, failed["RunActivity:PublishBatch"], "what fails is seen")
	require.Positive(t, failed["send "+gone.name], "in the request too: %v", failed)
	text := collector.Text()
	require.True(t, strings.Contains(text, "outbox.event_id"), "the links are in the text")
	for _, secret := range []string{"s3cr3t", o.url} {
		require.False(t, strings.Contains(text, secret), "%s is in a span", secret) // the whole text would be unreadable
	}
	for _, r := range done {
		require.NotContains(t, historyText(t, c, r), "_tracer-data")
	}
}
