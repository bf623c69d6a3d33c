package sns

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

// topic is one SNS topic.
type topic struct {
	client *sns.Client
	route  destination.Route
}

func (t *topic) Properties() destination.Properties { return awsapi.Properties(t.route) }

func (t *topic) Span() destination.Span {
	return destination.Span{
		Operation: "publish", Name: awsapi.Name(t.route.Address),
		Attributes: []attribute.KeyValue{semconv.MessagingSystemAWSSNS, semconv.AWSSNSTopicARN(t.route.Address)},
	}
}

func (t *topic) Check(ev *relay.Event) (bytes int, invalid *relay.PublishError) {
	return message.Check(ev, awsapi.CheckLimit(t.route))
}

func (t *topic) NewSender() destination.Sender {
	return &sender{topic: t, ids: message.Groups{FIFO: t.route.Ordered, Fair: t.route.Fair}}
}

// sender uses its entries and their maps again.
type sender struct {
	topic   *topic
	ids     message.Groups
	entries [awsapi.MaxEvents]types.PublishBatchRequestEntry
	batch   awsapi.Batch
}

func (s *sender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	for i, ev := range events {
		s.write(i, ev)
	}
	ctx = s.batch.Begin(ctx, len(events))
	out, err := s.topic.client.PublishBatch(ctx, &sns.PublishBatchInput{
		TopicArn:                   &s.topic.route.Address,
		PublishBatchRequestEntries: s.entries[:len(events)],
	})
	if err != nil {
		return s.batch.Answer(err)
	}
	for i := range out.Successful {
		s.batch.Accepted(out.Successful[i].Id, out.Successful[i].MessageId)
	}
	for i := range out.Failed {
		f := &out.Failed[i]
		s.batch.Failed(f.Id, f.Code, f.Message, f.SenderFault)
	}
	return s.batch.Answer(nil)
}

var stringType = message.StringType

// write makes ev entry i of the request.
func (s *sender) write(i int, ev *relay.Event) {
	attributes := s.entries[i].MessageAttributes
	if attributes == nil {
		attributes = make(map[string]types.MessageAttributeValue, message.MaxAttributes)
	}
	clear(attributes)
	message.EachAttribute(ev, func(name string, value *string) {
		attributes[name] = types.MessageAttributeValue{DataType: &stringType, StringValue: value}
	})
	out := &s.entries[i]
	*out = types.PublishBatchRequestEntry{
		Id:                &awsapi.EntryIDs[i],
		Message:           &ev.Payload,
		MessageAttributes: attributes,
	}
	out.MessageGroupId, out.MessageDeduplicationId = s.ids.IDs(ev)
}
