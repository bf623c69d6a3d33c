// Package consume drains queues while they are filled, and records every message as it
// came. Consumers connect to the endpoint directly, so the faults between the relay and
// the endpoint do not concern them.
package consume

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

const (
	pageSize = 10
	// poll is how many seconds a receive waits for a message.
	poll = 1
	// visibility is how many seconds it takes until a message whose receipt was lost
	// comes again.
	visibility = 10
)

// Queue is a queue to drain.
type Queue struct {
	Name string
	URL  string
	// Envelope is true if SNS delivers in its envelope, not raw.
	Envelope bool
}

// Consumers are the consumers of all queues.
type Consumers struct {
	client  *sqs.Client
	keep    func(check.Received)
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	received int
	last     time.Time      // when something came
	failures map[string]int // requests, by error text
}

// Start begins to drain. Messages are given to keep one by one, with a payload's digest
// in the place of the payload.
func Start(ctx context.Context, client *sqs.Client, queues []Queue, keep func(check.Received)) *Consumers {
	ctx, cancel := context.WithCancel(ctx)
	c := &Consumers{client: client, keep: keep, cancel: cancel, last: time.Now(), failures: map[string]int{}}
	for _, q := range queues {
		c.running.Go(func() { c.drain(ctx, q) })
	}
	return c
}

// Stop ends the consumers.
func (c *Consumers) Stop() {
	c.cancel()
	c.running.Wait()
}

// Count is how many messages came.
func (c *Consumers) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

// Idle is how long nothing has come.
func (c *Consumers) Idle() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.last)
}

func (c *Consumers) drain(ctx context.Context, q Queue) {
	for ctx.Err() == nil {
		// If a request were cancelled, the messages that it received would not be recorded.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		err := c.takeSome(limited, q)
		cancel()
		if err != nil {
			// Its queue may be deleted for a while.
			c.mu.Lock()
			c.failures[err.Error()]++
			c.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (c *Consumers) takeSome(ctx context.Context, q Queue) error {
	out, err := c.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &q.URL, MaxNumberOfMessages: pageSize, WaitTimeSeconds: poll, VisibilityTimeout: visibility,
		MessageAttributeNames:       []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
	})
	if err != nil {
		return fmt.Errorf("receive from %s: %w", q.Name, err)
	}
	if len(out.Messages) == 0 {
		return nil
	}
	arrived := time.Now()
	remove := &sqs.DeleteMessageBatchInput{QueueUrl: &q.URL}
	var got []check.Received
	for i, m := range out.Messages {
		got = append(got, q.message(m, arrived))
		remove.Entries = append(remove.Entries, types.DeleteMessageBatchRequestEntry{
			Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle,
		})
	}
	c.mu.Lock()
	for _, r := range got {
		r.N, r.Payload = c.received, check.Digest(r.Payload)
		c.received++
		c.keep(r)
	}
	c.last = arrived
	c.mu.Unlock()
	if _, err := c.client.DeleteMessageBatch(ctx, remove); err != nil {
		return fmt.Errorf("delete from %s: %w", q.Name, err)
	}
	return nil
}

// message returns the record of a message, with or without SNS's envelope.
func (q Queue) message(m types.Message, arrived time.Time) check.Received {
	r := check.Received{
		Queue: q.Name, MessageID: aws.ToString(m.MessageId), Payload: aws.ToString(m.Body),
		Group: m.Attributes["MessageGroupId"], Deduplication: m.Attributes["MessageDeduplicationId"],
		Attributes: map[string]string{}, Arrived: arrived,
	}
	if ms, err := strconv.ParseInt(m.Attributes["SentTimestamp"], 10, 64); err == nil {
		r.Sent = time.UnixMilli(ms)
	}
	for name, a := range m.MessageAttributes {
		r.Attributes[name] = aws.ToString(a.StringValue)
	}
	if q.Envelope {
		var envelope struct {
			Message           string
			MessageAttributes map[string]struct{ Value string }
		}
		// A body that is no envelope is recorded as it is, and the checker finds that it differs.
		if json.Unmarshal([]byte(r.Payload), &envelope) == nil {
			r.Payload = envelope.Message
			for name, a := range envelope.MessageAttributes {
				r.Attributes[name] = a.Value
			}
		}
	}
	r.EventID = r.Attributes["event_id"]
	return r
}
