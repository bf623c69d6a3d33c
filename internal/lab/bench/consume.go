package bench

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// consumer empties a queue while it is being filled. It shows that acknowledged events
// have arrived, and keeps the emulator's memory from growing.
type consumer struct {
	missing chan int // how many are expected altogether; ends it
	done    chan struct{}

	seen   map[int]bool
	again  int
	failed int // requests
	err    error
}

const (
	// consumerPause is how long it waits when it has found the queue almost empty.
	consumerPause = 100 * time.Millisecond
	// visibility is how many seconds it takes until messages whose receipt was
	// lost can be received again, and consumerPatience how long that is waited for.
	visibility       = 5
	consumerPatience = 15 * time.Second
)

func (e *environment) receive(ctx context.Context, queue string) *consumer {
	// If a request were cancelled, the messages that it received would not be counted.
	ctx = context.WithoutCancel(ctx)
	c := &consumer{missing: make(chan int, 1), done: make(chan struct{}), seen: map[int]bool{}}
	go func() {
		defer close(c.done)
		var deadline time.Time
		for expected := 0; ; {
			n, err := c.takeSome(ctx, e.sqs, queue)
			if err != nil {
				c.failed, c.err = c.failed+1, err
			}
			if n == entriesPerRequest {
				continue
			}
			if !deadline.IsZero() && (n == 0 && len(c.seen) >= expected || time.Now().After(deadline)) {
				return
			}
			select {
			case <-time.After(consumerPause):
			case expected = <-c.missing:
				deadline = time.Now().Add(consumerPatience)
			}
		}
	}()
	return c
}

func (c *consumer) takeSome(ctx context.Context, client *sqs.Client, queue string) (int, error) {
	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &queue, MaxNumberOfMessages: entriesPerRequest, VisibilityTimeout: visibility})
	if err != nil {
		return 0, fmt.Errorf("receive: %w", err)
	}
	if len(out.Messages) == 0 {
		return 0, nil
	}
	remove := &sqs.DeleteMessageBatchInput{QueueUrl: &queue}
	for i, m := range out.Messages {
		if found := markers.FindStringSubmatch(aws.ToString(m.Body)); found != nil {
			n, _ := strconv.Atoi(found[1])
			if c.seen[n] {
				c.again++
			}
			c.seen[n] = true
		}
		id := strconv.Itoa(i)
		remove.Entries = append(remove.Entries, types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: m.ReceiptHandle})
	}
	if _, err := client.DeleteMessageBatch(ctx, remove); err != nil {
		return len(out.Messages), fmt.Errorf("delete what was received: %w", err)
	}
	return len(out.Messages), nil
}

// stop receives the rest of the queue, until so many events have been received
// altogether, and ends. Call it once.
func (c *consumer) stop(expected int) {
	c.missing <- expected
	<-c.done
}
