package topology_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/localstack/topology"
)

func endpoint(t *testing.T) aws.Config {
	t.Helper()
	return testenv.AWS(t)
}

func TestLocal_SendsPaymentsToBillingAndEverythingToInventoryRaw(t *testing.T) {
	cfg := endpoint(t)
	p := prefix()
	res := apply(t, cfg, topology.Local().WithPrefix(p))
	for _, kind := range []string{"OrderPlaced", "OrderPaid", "OrderCancelled", "OrderRefunded"} {
		_, err := sns.NewFromConfig(cfg).Publish(t.Context(), &sns.PublishInput{
			TopicArn: aws.String(res.TopicARNs[p+"orders-events"]),
			Message:  aws.String(`{"kind":"` + kind + `"}`),
			MessageAttributes: map[string]snstypes.MessageAttributeValue{
				"event_type": {DataType: aws.String("String"), StringValue: aws.String(kind)},
			},
		})
		require.NoError(t, err)
	}
	assert.ElementsMatch(t, []string{
		`{"kind":"OrderPlaced"}`, `{"kind":"OrderPaid"}`, `{"kind":"OrderCancelled"}`, `{"kind":"OrderRefunded"}`,
	}, bodies(t, cfg, res.QueueURLs[p+"inventory"], 4))
	assert.ElementsMatch(t, []string{`{"kind":"OrderPaid"}`, `{"kind":"OrderRefunded"}`},
		bodies(t, cfg, res.QueueURLs[p+"billing"], 2))
}

func TestLocal_LedgerKeepsOrderWithinAGroupAndDropsRepetitions(t *testing.T) {
	cfg := endpoint(t)
	p := prefix()
	res := apply(t, cfg, topology.Local().WithPrefix(p))
	want := map[string][]string{}
	for i := range 20 {
		group, body := "account-"+strconv.Itoa(i%2), strconv.Itoa(i)
		want[group] = append(want[group], body)
		for range 2 { // the same deduplication id twice is one message
			_, err := sns.NewFromConfig(cfg).Publish(t.Context(), &sns.PublishInput{
				TopicArn:               aws.String(res.TopicARNs[p+"ledger-events.fifo"]),
				Message:                &body,
				MessageGroupId:         &group,
				MessageDeduplicationId: aws.String("event-" + body),
			})
			require.NoError(t, err)
		}
	}
	got := map[string][]string{}
	for _, m := range receive(t, cfg, res.QueueURLs[p+"ledger.fifo"], 20) {
		group := m.Attributes["MessageGroupId"]
		got[group] = append(got[group], aws.ToString(m.Body))
	}
	assert.Equal(t, want, got)
}

func TestLocal_MovesAMessageReceivedTooOftenToItsDeadLetterQueue(t *testing.T) {
	cfg := endpoint(t)
	p := prefix()
	res := apply(t, cfg, topology.Local().WithPrefix(p))
	client, url := sqs.NewFromConfig(cfg), aws.String(res.QueueURLs[p+"inventory"])
	_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("poison")})
	require.NoError(t, err)
	for range 6 {
		out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: url})
		require.NoError(t, err)
		for _, m := range out.Messages { // not deleted, and visible again at once
			_, err := client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{
				QueueUrl: url, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: 0,
			})
			require.NoError(t, err)
		}
	}
	assert.Equal(t, []string{"poison"}, bodies(t, cfg, res.QueueURLs[p+"inventory-dead"], 1))
}

// bodies receives what a queue holds, expecting n messages, and a moment longer.
func bodies(t *testing.T, cfg aws.Config, url string, n int) (got []string) {
	t.Helper()
	for _, m := range receive(t, cfg, url, n) {
		got = append(got, aws.ToString(m.Body))
	}
	return got
}

func receive(t *testing.T, cfg aws.Config, url string, n int) (got []sqstypes.Message) {
	t.Helper()
	client := sqs.NewFromConfig(cfg)
	take := func() error {
		out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &url, MaxNumberOfMessages: 10,
			MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{"All"},
		})
		require.NoError(t, err)
		for _, m := range out.Messages {
			_, err := client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle})
			require.NoError(t, err)
		}
		got = append(got, out.Messages...)
		if len(got) < n {
			return fmt.Errorf("%d of %d messages", len(got), n)
		}
		return nil
	}
	testenv.Eventually(t, 10*time.Second, take)
	time.Sleep(100 * time.Millisecond) // what should not be there
	require.NoError(t, take())
	return got
}
