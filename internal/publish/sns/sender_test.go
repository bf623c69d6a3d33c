package sns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
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

// fields are those of PublishBatch as SNS reads them. The attributes of an entry have no order, so
// each is named by its name and not by its number.
func fields(t require.TestingT, body []byte) map[string]string {
	form, err := url.ParseQuery(string(body))
	require.NoError(t, err)
	all := map[string]string{}
	for field, values := range form {
		require.Len(t, values, 1)
		if entry, attribute, is := strings.Cut(field, ".MessageAttributes.entry."); is {
			number, what, _ := strings.Cut(attribute, ".")
			field = fmt.Sprintf("%s %q %s", entry, form.Get(entry+".MessageAttributes.entry."+number+".Name"), what)
		}
		all[field] = values[0]
	}
	return all
}

func TestSender_WritesEntriesOfTheSizeThatIsMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ev := drawEvent(t)
		want, _ := message.Measure(ev)
		s := sender{topic: &topic{}}
		for range 2 { // the second time with what the first left behind
			got := 0
			for field, value := range fields(t, s.encode([]*relay.Event{{}, ev})) {
				entry, isSecond := strings.CutPrefix(field, "PublishBatchRequestEntries.member.2")
				if isSecond && !strings.HasPrefix(entry, ".Id") {
					got += len(value)
				}
			}
			if got != want {
				t.Fatalf("measured %d bytes, SNS gets %d", want, got)
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
	}, 1, 0), 0)
	sdk := sns.New(sns.Options{
		Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""), HTTPClient: &want, RetryMaxAttempts: 1,
	})
	for _, route := range []destination.Route{{}, {Fair: true}, {Ordered: true}} {
		route.Region, route.Address = "eu-west-1", "arn:aws:sns:eu-west-1:1:orders"
		s := d.Open(route).NewSender()
		rapid.Check(t, func(t *rapid.T) {
			events := []*relay.Event{drawEvent(t), {EventID: "e", Key: "k", Type: "T", Payload: "{}", Attributes: map[string]string{"tenant": "a b"}}}
			answer := s.Send(context.Background(), events)
			require.NotEmpty(t, got.last, answer.Failure)
			_, _ = sdk.PublishBatch(context.Background(), sdkInput(route, events))
			require.Equal(t, fields(t, want.last), fields(t, got.last))
		})
	}
}

// sdkInput has the events as the SDK takes them.
func sdkInput(r destination.Route, events []*relay.Event) *sns.PublishBatchInput {
	in := &sns.PublishBatchInput{TopicArn: &r.Address}
	ids, kind := message.Groups{FIFO: r.Ordered, Fair: r.Fair}, message.StringType
	for i, ev := range events {
		e := types.PublishBatchRequestEntry{
			Id: &awsapi.EntryIDs[i], Message: &ev.Payload, MessageAttributes: map[string]types.MessageAttributeValue{},
		}
		message.EachAttribute(ev, func(name string, value *string) {
			e.MessageAttributes[name] = types.MessageAttributeValue{DataType: &kind, StringValue: value}
		})
		e.MessageGroupId, e.MessageDeduplicationId = ids.IDs(ev)
		in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, e)
	}
	return in
}
