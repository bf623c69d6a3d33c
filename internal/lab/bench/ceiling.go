package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/temporal-outbox/relay/workflows"
)

// requestsOfOneTopic is how many requests the relay has under way for one topic:
// its share of the slots, a quarter, times the requests of a batch.
const requestsOfOneTopic = workflows.DefaultSlots / 4 * workflows.DefaultConcurrency

// entriesPerRequest is AWS's limit, and the size of payloads that of the drain.
const (
	entriesPerRequest = 10
	payloadBytes      = 512
)

// ceiling sends events with the bare SDK into a fresh queue and returns the rate.
// The inputs are made beforehand and used again, so that the rate is that of the SDK, the
// connection and the emulator.
func (e *environment) ceiling(ctx context.Context, events int) (CeilingResult, error) {
	queue, err := createQueue(ctx, e.sqs, fmt.Sprintf("%s-ceiling-%d", e.token, time.Now().UnixNano()))
	if err != nil {
		return CeilingResult{}, err
	}
	defer func() { _ = e.deleteQueue(context.WithoutCancel(ctx), queue) }()
	var left atomic.Int64
	left.Store(int64(events))
	group, ctx := errgroup.WithContext(ctx)
	cpu, began := readCPU(), time.Now()
	for range requestsOfOneTopic {
		group.Go(func() error {
			in := &sqs.SendMessageBatchInput{QueueUrl: &queue}
			for i := range entriesPerRequest {
				in.Entries = append(in.Entries, bareEntry(i))
			}
			for left.Add(-entriesPerRequest) >= 0 {
				out, err := e.sqs.SendMessageBatch(ctx, in)
				if err != nil {
					return fmt.Errorf("send with the bare SDK: %w", err)
				}
				if len(out.Failed) > 0 {
					return fmt.Errorf("send with the bare SDK: an entry failed")
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return CeilingResult{}, err
	}
	got := CeilingResult{EventsPerSecond: rate(events, time.Since(began)), CPUSeconds: readCPU().since(cpu)}
	e.say("  the bare SDK sends %.0f events/s", got.EventsPerSecond)
	return got, nil
}

// bareEntry has the attributes that the relay sends with the drain's events.
func bareEntry(i int) types.SendMessageBatchRequestEntry {
	id, body, kind := fmt.Sprint(i), strings.Repeat("0123456789abcdef", payloadBytes/16), "String"
	attributes := map[string]types.MessageAttributeValue{}
	for name, value := range map[string]string{
		"event_id": uuid.NewString(), "event_type": "BenchEvent", "content_type": "application/json",
		"traceparent": traceparent,
	} {
		attributes[name] = types.MessageAttributeValue{DataType: &kind, StringValue: &value}
	}
	header := traceHeader
	return types.SendMessageBatchRequestEntry{
		Id: &id, MessageBody: &body, MessageAttributes: attributes,
		MessageSystemAttributes: map[string]types.MessageSystemAttributeValue{
			"AWSTraceHeader": {DataType: &kind, StringValue: &header},
		},
	}
}

func (e *environment) deleteQueue(ctx context.Context, queue string) error {
	if _, err := e.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &queue}); err != nil {
		return fmt.Errorf("delete queue %s: %w", queue, err)
	}
	return nil
}

// roundTrips sends n messages of one key to a FIFO queue, one after the other,
// and returns the median time and the rate.
func (e *environment) roundTrips(ctx context.Context, n int) (median time.Duration, perSecond float64, err error) {
	queue, err := createQueue(ctx, e.sqs, fmt.Sprintf("%s-trips-%d.fifo", e.token, time.Now().UnixNano()))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = e.deleteQueue(context.WithoutCancel(ctx), queue) }()
	entry, group := bareEntry(0), "key"
	times := make([]time.Duration, 0, n)
	began := time.Now()
	for range n {
		deduplication := uuid.NewString()
		entry.MessageGroupId, entry.MessageDeduplicationId = &group, &deduplication
		sent := time.Now()
		_, err := e.sqs.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
			QueueUrl: &queue, Entries: []types.SendMessageBatchRequestEntry{entry},
		})
		if err != nil {
			return 0, 0, fmt.Errorf("send with the bare SDK: %w", err)
		}
		times = append(times, time.Since(sent))
	}
	perSecond = rate(n, time.Since(began))
	slices.Sort(times)
	return percentile(times, 0.5), perSecond, nil
}
