package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// queue is an SQS queue that a test receives from.
type queue struct {
	t         *testing.T
	sqs       *sqs.Client
	name, url string
}

// newQueue makes a queue; FIFO if its name ends in ".fifo".
func newQueue(t *testing.T, name string) queue {
	t.Helper()
	q := queue{t: t, sqs: sqs.NewFromConfig(testenv.AWS(t)), name: name}
	in := &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "15"}}
	if strings.HasSuffix(name, ".fifo") {
		in.Attributes["FifoQueue"] = "true"
	}
	out, err := q.sqs.CreateQueue(t.Context(), in)
	require.NoError(t, err)
	q.url = *out.QueueUrl
	t.Cleanup(func() { _, _ = q.sqs.DeleteQueue(context.Background(), &sqs.DeleteQueueInput{QueueUrl: &q.url}) })
	return q
}

// newTopic makes an SNS topic that delivers to q.
func newTopic(t *testing.T, name string, q queue) {
	t.Helper()
	c := sns.NewFromConfig(testenv.AWS(t))
	in := &sns.CreateTopicInput{Name: &name}
	if strings.HasSuffix(name, ".fifo") {
		in.Attributes = map[string]string{"FifoTopic": "true"}
	}
	topic, err := c.CreateTopic(t.Context(), in)
	require.NoError(t, err)
	attributes, err := q.sqs.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
	})
	require.NoError(t, err)
	_, err = c.Subscribe(t.Context(), &sns.SubscribeInput{
		TopicArn: topic.TopicArn, Protocol: aws.String("sqs"), Endpoint: aws.String(attributes.Attributes["QueueArn"]),
		Attributes: map[string]string{"RawMessageDelivery": "true"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = c.DeleteTopic(context.Background(), &sns.DeleteTopicInput{TopicArn: topic.TopicArn}) })
}

// receive takes messages until n different ones have come, and then all that
// still come at once, or fails when the time is over. (A message whose receipt is
// lost on the way comes again after the queue's visibility timeout.)
func (q queue) receive(n int, within time.Duration) (messages []types.Message) {
	q.t.Helper()
	deadline := time.Now().Add(within)
	different := make(map[string]bool)
	for {
		out, err := q.sqs.ReceiveMessage(q.t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &q.url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		})
		require.NoError(q.t, err)
		messages = append(messages, out.Messages...)
		q.delete(out.Messages)
		for _, m := range out.Messages {
			different[*m.Body] = true
		}
		switch {
		case len(out.Messages) > 0:
		case len(different) >= n:
			return messages
		case time.Now().After(deadline):
			q.t.Fatalf("%s: %d messages came in %v, want %d", q.name, len(different), within, n)
		default:
			time.Sleep(20 * time.Millisecond) // an empty queue
		}
	}
}

func (q queue) delete(messages []types.Message) {
	q.t.Helper()
	var entries []types.DeleteMessageBatchRequestEntry
	for i, m := range messages {
		entries = append(entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
	}
	if len(entries) == 0 {
		return
	}
	out, err := q.sqs.DeleteMessageBatch(q.t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &q.url, Entries: entries})
	require.NoError(q.t, err)
	require.Empty(q.t, out.Failed)
}

func bodies(messages []types.Message) map[string]int {
	counts := make(map[string]int, len(messages))
	for _, m := range messages {
		counts[*m.Body]++
	}
	return counts
}

// requireOnce checks that each of n events with a prefix came exactly once.
func requireOnce(t *testing.T, messages []types.Message, prefix string, n int) {
	t.Helper()
	got := bodies(messages)
	var missing, twice []string
	for i := 1; i <= n; i++ {
		switch body := fmt.Sprintf("%s-%d", prefix, i); got[body] {
		case 0:
			missing = append(missing, body)
		case 1:
		default:
			twice = append(twice, body)
		}
	}
	require.Empty(t, missing, "lost")
	require.Empty(t, twice, "published twice")
	require.Len(t, got, n)
}
