package sns

import (
	"context"
	"strconv"

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

// sender uses the buffers of its batch again.
type sender struct {
	topic *topic
	ids   message.Groups
	batch awsapi.Batch
}

func (s *sender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	ctx = s.batch.Begin(ctx, len(events), s.encode(events))
	out, err := s.topic.client.PublishBatch(ctx, &sns.PublishBatchInput{
		TopicArn: &s.topic.route.Address, PublishBatchRequestEntries: []types.PublishBatchRequestEntry{}, // they are in the body
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

// contentType is that of the AWS query protocol, which SNS speaks.
// https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
const contentType = "application/x-www-form-urlencoded"

// encode is the body of PublishBatch.
func (s *sender) encode(events []*relay.Event) []byte {
	size := 512
	for _, ev := range events {
		size += awsapi.FormSize(ev.Payload) + 1024
		for name, value := range ev.Attributes {
			size += len(name) + 2*len(value) + 256
		}
	}
	b := append(s.batch.Buffer(size), "Action=PublishBatch&Version=2010-03-31&TopicArn="...)
	b = awsapi.AppendForm(b, s.topic.route.Address)
	for i, ev := range events {
		b = s.appendEntry(b, i, ev)
	}
	return b
}

// appendEntry appends ev as entry i of the request.
func (s *sender) appendEntry(b []byte, i int, ev *relay.Event) []byte {
	entry := "&PublishBatchRequestEntries.member." + strconv.Itoa(i+1) + "."
	field := func(name, value string) {
		b = append(append(append(b, entry...), name...), '=')
		b = awsapi.AppendForm(b, value)
	}
	field("Id", awsapi.EntryIDs[i])
	field("Message", ev.Payload)
	n := 0
	message.EachAttribute(ev, func(name string, value *string) {
		n++
		attribute := "MessageAttributes.entry." + strconv.Itoa(n) + "."
		field(attribute+"Name", name)
		field(attribute+"Value.DataType", message.StringType)
		field(attribute+"Value.StringValue", *value)
	})
	group, deduplication := s.ids.IDs(ev)
	if group != nil {
		field("MessageGroupId", *group)
	}
	if deduplication != nil {
		field("MessageDeduplicationId", *deduplication)
	}
	return b
}
