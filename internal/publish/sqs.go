package publish

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

type sqsSender struct {
	client *sqs.Client
	route  Route
}

func (s *sqsSender) newRequest() request { return &sqsRequest{sender: s} }

type sqsRequest struct {
	sender  *sqsSender
	entries [maxEntries]types.SendMessageBatchRequestEntry
	system  [maxEntries]map[string]types.MessageSystemAttributeValue
}

func (r *sqsRequest) send(ctx context.Context, entries []*entry) answer {
	for i, e := range entries {
		r.fill(i, e)
	}
	out, err := r.sender.client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
		QueueUrl: &r.sender.route.Address,
		Entries:  r.entries[:len(entries)],
	})
	if err != nil {
		return failAll(err)
	}
	rd := newReader(entries)
	for i := range out.Successful {
		rd.accepted(out.Successful[i].Id, out.Successful[i].MessageId)
	}
	for i := range out.Failed {
		f := &out.Failed[i]
		rd.failed(f.Id, f.Code, f.Message, f.SenderFault)
	}
	return rd.done()
}

// fill sets entry i, using its attribute maps of the last request again.
func (r *sqsRequest) fill(i int, e *entry) {
	attributes := r.entries[i].MessageAttributes
	if attributes == nil {
		attributes = make(map[string]types.MessageAttributeValue, maxAttributes)
	}
	clear(attributes)
	eachAttribute(e.ev, func(name string, value *string) {
		attributes[name] = types.MessageAttributeValue{DataType: &stringType, StringValue: value}
	})
	out := &r.entries[i]
	*out = types.SendMessageBatchRequestEntry{
		Id:                &entryIDs[i],
		MessageBody:       &e.ev.Payload,
		MessageAttributes: attributes,
	}
	if c := creationContext(e.ev); c.IsValid() {
		if r.system[i] == nil {
			r.system[i] = make(map[string]types.MessageSystemAttributeValue, 1)
		}
		r.system[i][systemTraceHeader] = types.MessageSystemAttributeValue{DataType: &stringType, StringValue: aws.String(xrayHeader(c))}
		out.MessageSystemAttributes = r.system[i]
	}
	out.MessageGroupId, out.MessageDeduplicationId = groupAndDeduplication(r.sender.route, e.ev)
}
