// Package queue is the loop around a consumer: receive, handle, delete. It keeps the
// promise "at least once" on the receiving side: it deletes a message only after the
// handler has committed. After any failure before that, the message comes back. So every
// handler must recognise a repeat.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/outbox"
)

// Message is an event as it arrives.
type Message struct {
	ID         outbox.ID // the same on every delivery of the event
	Type       string
	Body       string
	Group      string    // on FIFO queues the event's key, else empty
	ReceivedAt time.Time // when the request that brought it returned

	receipt     *string
	received    int    // times, this one included
	traceparent string // of the span that wrote the event, or empty
}

// Handler processes an event. applied is false if an earlier delivery of the event was
// processed already. With an error the message stays in the queue and comes
// back after 1 s, then 4 s, 16 s and so on, until the queue's redrive policy moves
// it to its dead-letter queue.
type Handler func(ctx context.Context, m Message) (applied bool, err error)

// Consumer gives a queue's messages to a handler.
type Consumer struct {
	SQS    *sqs.Client // required
	Queue  string      // name; required
	Handle Handler     // required; called in the order of receipt, one at a time
	// Wait is how long a request waits for a first message. Default 20 s, which is
	// SQS's most, and cheapest: an empty queue then costs three requests a minute.
	Wait time.Duration
	// Log receives each failure; the consumer then tries again. Default slog.Default().
	Log *slog.Logger
}

const (
	longPoll = 20 * time.Second
	// finish is the time that a batch under way has to end when the consumer stops. It
	// is well below the 30 s after which SQS would deliver the messages again.
	finish = 10 * time.Second
	// pause is the wait after a request that failed.
	pause = time.Second
)

// Run consumes until ctx ends, and then returns nil, with the batch under way
// finished. It fails only if the queue cannot be found; everything later is
// logged and tried again.
func (c Consumer) Run(ctx context.Context) error {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Wait == 0 {
		c.Wait = longPoll
	}
	found, err := c.SQS.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &c.Queue})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("find queue %s: %w", c.Queue, err)
	}
	for ctx.Err() == nil {
		messages, err := c.receive(ctx, found.QueueUrl)
		if err != nil && ctx.Err() == nil {
			c.Log.Warn("receive", "queue", c.Queue, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		if len(messages) > 0 {
			c.batch(ctx, found.QueueUrl, messages)
		}
	}
	return nil
}

func (c Consumer) receive(ctx context.Context, url *string) ([]types.Message, error) {
	out, err := c.SQS.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: url, MaxNumberOfMessages: 10, WaitTimeSeconds: int32(c.Wait.Seconds()),
		MessageAttributeNames: []string{outbox.AttributeEventID, outbox.AttributeEventType, outbox.AttributeTraceparent},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameMessageGroupId,
			types.MessageSystemAttributeNameApproximateReceiveCount,
		},
	})
	if err != nil {
		return nil, err
	}
	return out.Messages, nil
}

// batch handles messages, deletes those that succeeded, and makes the others come back later.
func (c Consumer) batch(ctx context.Context, url *string, messages []types.Message) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	received := time.Now()
	var done []types.DeleteMessageBatchRequestEntry
	var back []types.ChangeMessageVisibilityBatchRequestEntry
	held := map[string]bool{} // groups
	for i, raw := range messages {
		id := aws.String(strconv.Itoa(i))
		m, err := parse(raw)
		// Later messages of a group must not overtake a failed one.
		if behind := m.Group != "" && held[m.Group]; !behind {
			if err == nil {
				m.ReceivedAt = received
				err = c.handle(ctx, m)
			}
			if err == nil {
				done = append(done, types.DeleteMessageBatchRequestEntry{Id: id, ReceiptHandle: m.receipt})
				continue
			}
			c.Log.Warn("handle", "queue", c.Queue, "event", m.ID, "type", m.Type, "error", err)
		}
		held[m.Group] = true
		back = append(back, types.ChangeMessageVisibilityBatchRequestEntry{
			Id: id, ReceiptHandle: m.receipt, VisibilityTimeout: backoff(m.received),
		})
	}
	c.settle(ctx, url, done, back)
}

// backoff is in seconds. It grows so that a fault of a minute is survived within
// the five receives that redrive policies usually allow.
func backoff(received int) int32 { return 1 << (2 * min(max(received-1, 0), 4)) }

// settle deletes messages, and delays the others. If the request fails, the messages come
// back by themselves, and handlers recognise them as repeats. So its errors do no harm.
func (c Consumer) settle(
	ctx context.Context, url *string, done []types.DeleteMessageBatchRequestEntry, back []types.ChangeMessageVisibilityBatchRequestEntry,
) {
	if len(back) > 0 {
		_, err := c.SQS.ChangeMessageVisibilityBatch(ctx, &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: url, Entries: back})
		if err != nil {
			c.Log.Warn("give back", "queue", c.Queue, "error", err)
		}
	}
	if len(done) == 0 {
		return
	}
	out, err := c.SQS.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: url, Entries: done})
	if err == nil && len(out.Failed) > 0 {
		err = fmt.Errorf("%d of %d: %s", len(out.Failed), len(done), aws.ToString(out.Failed[0].Message))
	}
	if err != nil {
		c.Log.Warn("delete", "queue", c.Queue, "error", err)
	}
}

// parse expects raw message delivery: without it the attributes would be inside
// of SNS's envelope.
func parse(raw types.Message) (Message, error) {
	m := Message{
		Body:    aws.ToString(raw.Body),
		Group:   raw.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)],
		Type:    aws.ToString(raw.MessageAttributes[outbox.AttributeEventType].StringValue),
		receipt: raw.ReceiptHandle,

		traceparent: aws.ToString(raw.MessageAttributes[outbox.AttributeTraceparent].StringValue),
	}
	// Where the count is missing the message comes back soon.
	m.received, _ = strconv.Atoi(raw.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	id, ok := raw.MessageAttributes[outbox.AttributeEventID]
	if !ok {
		return m, errors.New("the message has no attribute event_id: is raw message delivery on?")
	}
	var err error
	m.ID, err = outbox.ParseID(aws.ToString(id.StringValue))
	return m, err
}
