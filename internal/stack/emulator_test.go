package stack_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// SQS remembers every deduplication id for five minutes, however many come after it.
func TestEmulator_DropsARepetitionAfterTenThousandOtherMessages(t *testing.T) {
	client := sqs.NewFromConfig(testenv.AWS(t))
	queue, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{
		QueueName: aws.String(testenv.Name(t) + ".fifo"), Attributes: map[string]string{"FifoQueue": "true"},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, _ = client.DeleteQueue(context.Background(), &sqs.DeleteQueueInput{QueueUrl: queue.QueueUrl})
	})
	send := func(id string) *sqs.SendMessageOutput {
		t.Helper()
		out, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{
			QueueUrl: queue.QueueUrl, MessageBody: aws.String("x"), MessageGroupId: aws.String("g"), MessageDeduplicationId: &id,
		})
		require.NoError(t, err)
		return out
	}
	first := send("first")
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for n := range 1001 {
		group.Go(func() error {
			var entries []types.SendMessageBatchRequestEntry
			for i := range 10 {
				entries = append(entries, types.SendMessageBatchRequestEntry{
					Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("x"), MessageGroupId: aws.String("g"),
					MessageDeduplicationId: aws.String(fmt.Sprintf("%d-%d", n, i)),
				})
			}
			out, err := client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: queue.QueueUrl, Entries: entries})
			if err == nil && len(out.Failed) > 0 {
				return fmt.Errorf("entries failed: %v", out.Failed)
			}
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, *first.MessageId, *send("first").MessageId)
}
