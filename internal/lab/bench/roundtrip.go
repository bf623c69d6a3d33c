package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
)

// roundTrips sends n messages of one key to a FIFO queue, one after the other,
// and returns the median time and the rate.
func (e *environment) roundTrips(ctx context.Context, n int) (median time.Duration, perSecond float64, err error) {
	queue, err := createQueue(ctx, e.sqs, fmt.Sprintf("%s-trips-%d.fifo", e.token, time.Now().UnixNano()))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = e.deleteQueue(context.WithoutCancel(ctx), queue) }()
	entry, group := bareEntry(0, filler(payloadBytes)), "key"
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
