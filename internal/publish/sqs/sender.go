package sqs

import (
	"context"

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

// sender uses the buffers of its batch again.
type sender struct {
	queue *queue
	ids   message.Groups
	batch awsapi.Batch
}

func (s *sender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	ctx = s.batch.Begin(ctx, len(events), s.encode(events))
	out, err := s.queue.client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
		QueueUrl: &s.queue.route.Address, Entries: []types.SendMessageBatchRequestEntry{}, // they are in the body
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

// contentType is that of AWS JSON 1.0, which SQS speaks.
// https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html
const contentType = "application/x-amz-json-1.0"

// encode is the body of SendMessageBatch.
func (s *sender) encode(events []*relay.Event) []byte {
	size := 256
	for _, ev := range events {
		size += awsapi.JSONSize(ev.Payload) + 512
		for name, value := range ev.Attributes {
			size += len(name) + len(value) + 64
		}
	}
	b := append(s.batch.Buffer(size), `{"QueueUrl":`...)
	b = awsapi.AppendJSON(b, s.queue.route.Address)
	b = append(b, `,"Entries":[`...)
	for i, ev := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.appendEntry(b, i, ev)
	}
	return append(b, "]}"...)
}

// appendEntry appends ev as entry i of the request.
func (s *sender) appendEntry(b []byte, i int, ev *relay.Event) []byte {
	b = append(b, `{"Id":`...)
	b = awsapi.AppendJSON(b, awsapi.EntryIDs[i])
	b = append(b, `,"MessageBody":`...)
	b = awsapi.AppendJSON(b, ev.Payload)
	b = append(b, `,"MessageAttributes":{`...)
	first := true
	message.EachAttribute(ev, func(name string, value *string) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendAttribute(b, name, *value)
	})
	b = append(b, '}')
	if c := message.CreationContext(ev); c.IsValid() {
		b = append(b, `,"MessageSystemAttributes":{`...)
		b = append(appendAttribute(b, traceHeader, xrayHeader(c)), '}')
	}
	group, deduplication := s.ids.IDs(ev)
	if group != nil {
		b = awsapi.AppendJSON(append(b, `,"MessageGroupId":`...), *group)
	}
	if deduplication != nil {
		b = awsapi.AppendJSON(append(b, `,"MessageDeduplicationId":`...), *deduplication)
	}
	return append(b, '}')
}

func appendAttribute(b []byte, name, value string) []byte {
	b = awsapi.AppendJSON(b, name)
	b = append(b, `:{"DataType":"`+message.StringType+`","StringValue":`...)
	return append(awsapi.AppendJSON(b, value), '}')
}
