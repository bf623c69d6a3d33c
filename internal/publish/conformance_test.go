package publish_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/destination/destinationtest"
	"github.com/temporal-outbox/relay/internal/publish/sns"
	awssqs "github.com/temporal-outbox/relay/internal/publish/sqs"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestDestination_KeepsTheRulesOfThePort(t *testing.T) {
	for _, service := range []publish.Service{publish.SNS, publish.SQS} {
		for _, fifo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fifo=%t", service, fifo), func(t *testing.T) {
				destinationtest.Run(t, func(t *testing.T) destinationtest.Fixture { return conformance(t, service, fifo) })
			})
		}
	}
}

// conformance is a fixture of the rules in the emulator.
func conformance(t *testing.T, service publish.Service, fifo bool) destinationtest.Fixture {
	t.Helper()
	cfg := testenv.AWS(t)
	made := newFixture(t, cfg, service, fifo)
	driver := func(c destinationtest.Client) destination.Driver {
		mine := cfg.Copy()
		mine.HTTPClient = c
		api := awsapi.Config(mine, 2, 5*time.Second)
		if service == publish.SNS {
			return sns.New(api, 5*time.Second)
		}
		return awssqs.New(api)
	}
	route := func(name string) destination.Route {
		r := destination.Route{Topic: "orders", Name: name, Region: cfg.Region, Guessed: true}
		parse := sns.Parse
		if service == publish.SQS {
			parse = awssqs.Parse
		}
		r, err := parse(r)
		require.NoError(t, err)
		require.Equal(t, fifo, r.Ordered)
		return r
	}
	name := made.destination.SNS + made.destination.SQS
	gone := "gone-" + name
	existing, err := driver(http.DefaultClient).LookUp(t.Context(), route(name))
	require.NoError(t, err)
	refused := relay.Event{EventID: uuid.NewString(), Key: "refused", Type: "order.placed", Payload: "\x01"}
	if service == publish.SNS { // the emulator's SNS accepts that character
		refused.Payload = ""
	}
	return destinationtest.Fixture{
		Client: http.DefaultClient, Driver: driver, Route: route(name), Missing: route(gone),
		MissingAddress: strings.TrimSuffix(existing.Address, name) + gone,
		Refused:        refused,
		Arrived:        made.eventIDs,
	}
}

// eventIDs takes n messages from the fixture's queue, and returns the ids of their events.
func (f fixture) eventIDs(t destinationtest.T, n int) (ids []string) {
	for len(ids) < n {
		out, err := f.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &f.queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 5, MessageAttributeNames: []string{"All"},
		})
		require.NoError(t, err)
		require.NotEmpty(t, out.Messages, "only %d of %d messages arrived", len(ids), n)
		var done []types.DeleteMessageBatchRequestEntry
		for i, m := range out.Messages {
			ids = append(ids, *m.MessageAttributes["event_id"].StringValue)
			done = append(done, types.DeleteMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), ReceiptHandle: m.ReceiptHandle})
		}
		_, err = f.sqs.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &f.queue, Entries: done})
		require.NoError(t, err)
	}
	return ids
}
