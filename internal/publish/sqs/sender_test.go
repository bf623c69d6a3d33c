package sqs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

// drawEvent draws an event of any texts.
func drawEvent(t *rapid.T) *relay.Event {
	text := rapid.String()
	return &relay.Event{
		EventID: text.Draw(t, "id"), Type: text.Draw(t, "type"), ContentType: text.Draw(t, "content type"), Key: text.Draw(t, "key"),
		Payload: text.Draw(t, "payload"), Attributes: rapid.MapOf(text, text).Draw(t, "attributes"),
	}
}

// request is SendMessageBatch as SQS reads it.
type request struct {
	QueueUrl string
	Entries  []struct {
		ID                string `json:"Id"`
		MessageBody       string
		MessageAttributes map[string]struct{ DataType, StringValue string }
	}
}

func TestSender_WritesEntriesOfTheSizeThatIsMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ev := drawEvent(t)
		want, _ := message.Measure(ev)
		s := sender{queue: &queue{}}
		for range 2 { // the second time with what the first left behind
			var r request
			require.NoError(t, json.Unmarshal(s.encode([]*relay.Event{{}, ev}), &r))
			got := len(r.Entries[1].MessageBody)
			for name, a := range r.Entries[1].MessageAttributes {
				got += len(name) + len(a.DataType) + len(a.StringValue)
			}
			if got != want {
				t.Fatalf("measured %d bytes, SQS gets %d", want, got)
			}
			s.encode([]*relay.Event{{}, {Attributes: map[string]string{"left": "behind"}}})
		}
	})
}

// bodies keeps the bodies of requests, and answers none.
type bodies struct{ last []byte }

func (b *bodies) Do(req *http.Request) (*http.Response, error) {
	b.last, _ = io.ReadAll(req.Body)
	return nil, errors.New("no answer")
}

func TestSender_SendsWhatTheSDKWouldSend(t *testing.T) {
	var got, want bodies
	d := New(awsapi.Config(aws.Config{
		Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), HTTPClient: &got,
	}, 1, 0))
	sdk := sqs.New(sqs.Options{
		Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), HTTPClient: &want, RetryMaxAttempts: 1,
	})
	traceparent := map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": `a"b`}
	for _, route := range []destination.Route{{}, {Fair: true}, {Ordered: true}} {
		route.Region, route.Address = "eu-west-1", "https://sqs.eu-west-1.amazonaws.com/1/orders"
		s := d.Open(route).NewSender()
		rapid.Check(t, func(t *rapid.T) {
			events := []*relay.Event{drawEvent(t), {EventID: "e", Key: "k", Type: "T", Payload: "{}", Attributes: traceparent}}
			answer := s.Send(context.Background(), events)
			require.NotEmpty(t, got.last, answer.Failure)
			_, _ = sdk.SendMessageBatch(context.Background(), sdkInput(route, events))
			var a, b any
			require.NoError(t, json.Unmarshal(got.last, &a))
			require.NoError(t, json.Unmarshal(want.last, &b))
			require.Equal(t, b, a)
		})
	}
}

// sdkInput has the events as the SDK takes them.
func sdkInput(r destination.Route, events []*relay.Event) *sqs.SendMessageBatchInput {
	in := &sqs.SendMessageBatchInput{QueueUrl: &r.Address}
	ids, kind := message.Groups{FIFO: r.Ordered, Fair: r.Fair}, message.StringType
	for i, ev := range events {
		e := types.SendMessageBatchRequestEntry{
			Id: &awsapi.EntryIDs[i], MessageBody: &ev.Payload, MessageAttributes: map[string]types.MessageAttributeValue{},
		}
		message.EachAttribute(ev, func(name string, value *string) {
			e.MessageAttributes[name] = types.MessageAttributeValue{DataType: &kind, StringValue: value}
		})
		if c := message.CreationContext(ev); c.IsValid() {
			e.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{
				traceHeader: {DataType: &kind, StringValue: aws.String(xrayHeader(c))},
			}
		}
		e.MessageGroupId, e.MessageDeduplicationId = ids.IDs(ev)
		in.Entries = append(in.Entries, e)
	}
	return in
}
