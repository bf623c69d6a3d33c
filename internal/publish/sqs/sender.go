package sqs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

// queue is one SQS queue.
type queue struct {
	client *sqs.Client
	route  destination.Route
}

func (q *queue) Properties() destination.Properties { return awsapi.Properties(q.route) }

func (q *queue) Span() destination.Span {
	url := destination.WithoutSecrets(q.route.Address)
	return destination.Span{
		Operation: "send", Name: awsapi.Name(url),
		Attributes: []attribute.KeyValue{semconv.MessagingSystemAWSSQS, semconv.AWSSQSQueueURL(url)},
	}
}

func (q *queue) Check(ev *relay.Event) (bytes int, invalid *relay.PublishError) {
	return message.Check(ev, awsapi.CheckLimit(q.route))
}

func (q *queue) NewSender() destination.Sender {
	return &sender{queue: q, ids: message.Groups{FIFO: q.route.Ordered, Fair: q.route.Fair}}
}

// sender uses its entries and their maps again.
type sender struct {
	queue   *queue
	ids     message.Groups
	entries [awsapi.MaxEvents]types.SendMessageBatchRequestEntry
	system  [awsapi.MaxEvents]map[string]types.MessageSystemAttributeValue
	batch   awsapi.Batch
}

func (s *sender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	for i, ev := range events {
		s.write(i, ev)
	}
	ctx = s.batch.Begin(ctx, len(events))
	out, err := s.queue.client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
		QueueUrl: &s.queue.route.Address,
		Entries:  s.entries[:len(events)],
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
	*out = types.SendMessageBatchRequestEntry{
		Id:                &awsapi.EntryIDs[i],
		MessageBody:       &ev.Payload,
		MessageAttributes: attributes,
	}
	if c := message.CreationContext(ev); c.IsValid() {
		if s.system[i] == nil {
			s.system[i] = make(map[string]types.MessageSystemAttributeValue, 1)
		}
		s.system[i][traceHeader] = types.MessageSystemAttributeValue{DataType: &stringType, StringValue: aws.String(xrayHeader(c))}
		out.MessageSystemAttributes = s.system[i]
	}
	out.MessageGroupId, out.MessageDeduplicationId = s.ids.IDs(ev)
}
