package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/examples/shop/queue"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// fixture is a queue of the test's own.
type fixture struct {
	*testing.T
	client    *sqs.Client
	name, url string
}

func newFixture(t *testing.T, suffix string, attributes map[string]string) fixture {
	t.Helper()
	f := fixture{T: t, client: sqs.NewFromConfig(testenv.AWS(t)), name: testenv.Name(t) + suffix}
	made, err := f.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &f.name, Attributes: attributes})
	require.NoError(t, err)
	f.url = aws.ToString(made.QueueUrl)
	t.Cleanup(func() { _, _ = f.client.DeleteQueue(context.Background(), &sqs.DeleteQueueInput{QueueUrl: &f.url}) })
	return f
}

func (f fixture) send(body, group string) {
	f.Helper()
	id := outbox.NewID().String()
	text := func(s string) types.MessageAttributeValue {
		return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &s}
	}
	in := &sqs.SendMessageInput{
		QueueUrl: &f.url, MessageBody: &body,
		MessageAttributes: map[string]types.MessageAttributeValue{"event_id": text(id), "event_type": text("Happened")},
	}
	if group != "" {
		in.MessageGroupId, in.MessageDeduplicationId = &group, &id
	}
	_, err := f.client.SendMessage(f.Context(), in)
	require.NoError(f, err)
}

// seen collects what handlers were given.
type seen struct {
	mu  sync.Mutex
	all []string
}

func (s *seen) add(text string) (times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, text)
	for _, other := range s.all {
		if other == text {
			times++
		}
	}
	return times
}

func (s *seen) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.all...)
}

// run consumes until n messages were seen, and a moment longer.
func (f fixture) run(s *seen, n int, handle queue.Handler) []string {
	f.Helper()
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- queue.Consumer{
			SQS: f.client, Queue: f.name, Handle: handle, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}.Run(ctx)
	}()
	testenv.Eventually(f, 15*time.Second, func() error {
		if got := s.list(); len(got) < n {
			return fmt.Errorf("seen %v", got)
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
	cancel()
	require.NoError(f, <-ended)
	return s.list()
}

func (f fixture) left() string {
	f.Helper()
	out, err := f.client.GetQueueAttributes(f.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: &f.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	require.NoError(f, err)
	return out.Attributes["ApproximateNumberOfMessages"] + "+" + out.Attributes["ApproximateNumberOfMessagesNotVisible"]
}

func TestConsumer_DeletesHandledMessagesAndTheOthersComeBack(t *testing.T) {
	f := newFixture(t, "", nil)
	f.send("good", "")
	f.send("bad", "")
	var s seen
	got := f.run(&s, 3, func(_ context.Context, m queue.Message) (bool, error) {
		assert.Equal(t, "Happened", m.Type)
		assert.False(t, m.ID.IsZero())
		assert.WithinDuration(t, time.Now(), m.ReceivedAt, 10*time.Second)
		if s.add(m.Body) == 1 && m.Body == "bad" {
			return false, errors.New("not this time")
		}
		return true, nil
	})
	assert.ElementsMatch(t, []string{"good", "bad", "bad"}, got)
	assert.Equal(t, "0+0", f.left())
}

func TestConsumer_LetsNothingOvertakeAFailedMessageOfItsGroup(t *testing.T) {
	f := newFixture(t, ".fifo", map[string]string{"FifoQueue": "true"})
	for _, body := range []string{"a1", "b1", "a2", "b2", "a3"} {
		f.send(body, body[:1])
	}
	var s seen
	var a []string
	f.run(&s, 6, func(_ context.Context, m queue.Message) (bool, error) {
		if s.add(m.Body) == 1 && m.Body == "a1" {
			return false, errors.New("not this time")
		}
		if m.Group == "a" {
			a = append(a, m.Body)
		}
		return true, nil
	})
	assert.Equal(t, []string{"a1", "a2", "a3"}, a)
	assert.Equal(t, "0+0", f.left())
}

func TestConsumer_FinishesTheBatchUnderWayWhenStopped(t *testing.T) {
	f := newFixture(t, "", nil)
	f.send("one", "")
	ctx, stop := context.WithCancel(t.Context())
	err := queue.Consumer{SQS: f.client, Queue: f.name, Handle: func(ctx context.Context, _ queue.Message) (bool, error) {
		stop()
		return true, ctx.Err()
	}}.Run(ctx)
	require.NoError(t, err)
	assert.Equal(t, "0+0", f.left())
}

func TestConsumer_OfAMissingQueueIsAnError(t *testing.T) {
	err := queue.Consumer{SQS: sqs.NewFromConfig(testenv.AWS(t)), Queue: "there-is-no-such-queue"}.Run(t.Context())
	var missing *types.QueueDoesNotExist
	require.ErrorAs(t, err, &missing)
	require.ErrorContains(t, err, "find queue there-is-no-such-queue")
}
