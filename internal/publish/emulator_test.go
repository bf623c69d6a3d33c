package publish_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// fixture is a destination in the emulator and the queue its events arrive in.
type fixture struct {
	destination publish.Destination
	sqs         *sqs.Client
	queue       string // URL
}

func newFixture(t testing.TB, cfg aws.Config, service publish.Service, fifo bool) fixture {
	ctx := t.Context()
	name := testenv.Name(t)
	queueAttributes, topicAttributes := map[string]string{}, map[string]string{}
	if fifo {
		name += ".fifo"
		queueAttributes["FifoQueue"] = "true"
		topicAttributes["FifoTopic"] = "true"
	}
	client := sqs.NewFromConfig(cfg)
	f := fixture{sqs: client, destination: publish.Destination{SQS: name}}
	q, err := f.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: queueAttributes})
	require.NoError(t, err)
	f.queue = *q.QueueUrl
	if service == publish.SQS {
		return f
	}
	got, err := f.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: q.QueueUrl, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
	})
	require.NoError(t, err)
	topics := sns.NewFromConfig(cfg)
	topic, err := topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: &name, Attributes: topicAttributes})
	require.NoError(t, err)
	_, err = topics.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: topic.TopicArn, Protocol: aws.String("sqs"), Endpoint: aws.String(got.Attributes["QueueArn"]),
		Attributes: map[string]string{"RawMessageDelivery": "true"},
	})
	require.NoError(t, err)
	f.destination = publish.Destination{SNS: name}
	return f
}

// receive takes n messages from the fixture's queue, in the order of arrival.
func (f fixture) receive(t testing.TB, n int) []types.Message {
	var all []types.Message
	for len(all) < n {
		out, err := f.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &f.queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 5,
			MessageAttributeNames:       []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		})
		require.NoError(t, err)
		require.NotEmpty(t, out.Messages, "only %d of %d messages arrived", len(all), n)
		for _, m := range out.Messages {
			_, err := f.sqs.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &f.queue, ReceiptHandle: m.ReceiptHandle})
			require.NoError(t, err)
		}
		all = append(all, out.Messages...)
	}
	return all
}

// manyEvents makes n events over a few keys, one of which AWS would not accept
// as a group id, with all the characters that encodings stumble over.
func manyEvents(n int) []relay.Event {
	events := make([]relay.Event, n)
	for i := range events {
		key := fmt.Sprintf("order-%d", i%7)
		if i%7 == 0 {
			key = "Bestellung Nr. 7 / Köln"
		}
		events[i] = relay.Event{
			Ref: relay.Ref{ID: int64(i + 1)}, CreatedAt: time.Now(),
			EventID: uuid.NewString(), Key: key, Type: "order.placed", ContentType: "application/json",
			Payload:    fmt.Sprintf("{\"n\":%d,\"text\":\"<a href='x?y=1&z=2'>ü 漢</a>\t\\\"%%25+\",\r\n \"blank\":\"  \"}", i),
			Attributes: map[string]string{"tenant": "acme & söhne", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		}
	}
	return events
}

func stream(pages ...[]relay.Event) <-chan []relay.Event {
	c := make(chan []relay.Event, len(pages))
	for _, p := range pages {
		c <- p
	}
	close(c)
	return c
}

func TestEmulator_EventsArriveAsWrittenAndInOrderPerKeyOnFIFO(t *testing.T) {
	cfg := testenv.AWS(t)
	for _, service := range []publish.Service{publish.SNS, publish.SQS} {
		for _, fifo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fifo=%t", service, fifo), func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, cfg, service, fifo)
				p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"orders": f.destination}})
				require.NoError(t, err)

				events := manyEvents(140)
				var outcomes []relay.Outcome
				result, err := p.Publish(t.Context(), publish.Request{
					Topic: "orders", Events: stream(events[:57], events[57:]),
					Report: func(o []relay.Outcome) { outcomes = append(outcomes, o...) },
				})
				require.NoError(t, err)
				assert.Equal(t, len(events), result.Acknowledged, "%+v", outcomes)
				assert.Len(t, outcomes, len(events))

				address := f.queue
				if service == publish.SNS {
					address = ":" + f.destination.SNS
				}
				messages := make(map[int64]string)
				for _, o := range outcomes {
					require.NotEmpty(t, o.MessageID)
					require.True(t, strings.HasSuffix(o.Destination, address), o.Destination)
					messages[o.ID] = o.MessageID
				}
				require.Len(t, messages, len(events))

				byID := make(map[string]relay.Event)
				order := make(map[string][]string)
				for _, ev := range events {
					byID[ev.EventID] = ev
					order[ev.Key] = append(order[ev.Key], ev.EventID)
				}
				arrived := make(map[string][]string)
				for _, m := range f.receive(t, len(events)) {
					id := *m.MessageAttributes["event_id"].StringValue
					ev, ok := byID[id]
					require.True(t, ok, "event %s arrived twice or was never sent", id)
					delete(byID, id)
					arrived[ev.Key] = append(arrived[ev.Key], id)
					assert.Equal(t, ev.Payload, *m.Body)
					if service == publish.SQS { // a subscription makes another message of SNS's
						assert.Equal(t, *m.MessageId, messages[ev.ID])
					}
					want := maps.Clone(ev.Attributes)
					want["event_id"], want["event_type"], want["content_type"] = ev.EventID, ev.Type, ev.ContentType
					got := make(map[string]string)
					for name, a := range m.MessageAttributes {
						assert.Equal(t, "String", *a.DataType)
						got[name] = *a.StringValue
					}
					assert.Equal(t, want, got)
					// LocalStack keeps it (make interop), fauxqs does not.
					if header, kept := m.Attributes["AWSTraceHeader"]; kept {
						assert.Equal(t, sameForXRay, header)
					}
					if fifo {
						assert.Equal(t, ev.EventID, m.Attributes["MessageDeduplicationId"])
						if !strings.Contains(ev.Key, " ") {
							assert.Equal(t, ev.Key, m.Attributes["MessageGroupId"])
						}
					}
				}
				assert.Empty(t, byID, "events that did not arrive")
				if fifo {
					assert.Equal(t, order, arrived)
				}
			})
		}
	}
}

func TestFIFO_AbsorbsARetryAndDeliversAReplay(t *testing.T) {
	cfg := testenv.AWS(t)
	f := newFixture(t, cfg, publish.SQS, true)
	p, err := publish.New(publish.Config{AWS: cfg, Topics: map[string]publish.Destination{"orders": f.destination}})
	require.NoError(t, err)
	event := manyEvents(1)[0]
	replay := event
	replay.Replay = 3
	for _, ev := range []relay.Event{event, event, replay, replay} {
		result, err := p.Publish(t.Context(), publish.Request{
			Topic: "orders", Events: stream([]relay.Event{ev}), Report: func([]relay.Outcome) {},
		})
		require.NoError(t, err)
		require.Equal(t, 1, result.Acknowledged)
	}
	var ids []string
	for _, m := range f.receive(t, 2) {
		ids = append(ids, m.Attributes["MessageDeduplicationId"])
	}
	assert.Equal(t, []string{event.EventID, event.EventID + "/3"}, ids)
	left, err := f.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &f.queue})
	require.NoError(t, err)
	assert.Empty(t, left.Messages)
}
