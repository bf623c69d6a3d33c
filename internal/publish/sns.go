package publish

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
)

type snsSender struct {
	client *sns.Client
	route  Route
}

func (s *snsSender) newRequest() request { return &snsRequest{sender: s} }

type snsRequest struct {
	sender  *snsSender
	entries [maxEntries]types.PublishBatchRequestEntry
}

func (r *snsRequest) send(ctx context.Context, entries []*entry) answer {
	for i, e := range entries {
		r.fill(i, e)
	}
	out, err := r.sender.client.PublishBatch(ctx, &sns.PublishBatchInput{
		TopicArn:                   &r.sender.route.Address,
		PublishBatchRequestEntries: r.entries[:len(entries)],
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

// fill sets entry i, using its attribute map of the last request again.
func (r *snsRequest) fill(i int, e *entry) {
	attributes := r.entries[i].MessageAttributes
	if attributes == nil {
		attributes = make(map[string]types.MessageAttributeValue, maxAttributes)
	}
	clear(attributes)
	eachAttribute(e.ev, func(name string, value *string) {
		attributes[name] = types.MessageAttributeValue{DataType: &stringType, StringValue: value}
	})
	out := &r.entries[i]
	*out = types.PublishBatchRequestEntry{
		Id:                &entryIDs[i],
		Message:           &e.ev.Payload,
		MessageAttributes: attributes,
	}
	out.MessageGroupId, out.MessageDeduplicationId = groupAndDeduplication(r.sender.route, e.ev)
}
