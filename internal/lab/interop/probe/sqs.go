package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

func (l *lab) send(url, body, group, dedup string) (*sqs.SendMessageOutput, error) {
	in := &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}
	if group != "" {
		in.MessageGroupId = &group
	}
	if dedup != "" {
		in.MessageDeduplicationId = &dedup
	}
	return l.sqs.SendMessage(l, in)
}

// sendBatch sends bodies under the ids e0, e1, … or the ones given.
func (l *lab) sendBatch(url string, bodies []string, ids ...string) string {
	var entries []types.SendMessageBatchRequestEntry
	for i, body := range bodies {
		id := "e" + strconv.Itoa(i)
		if len(ids) > 0 {
			id = ids[i]
		}
		entries = append(entries, types.SendMessageBatchRequestEntry{Id: &id, MessageBody: aws.String(body)})
	}
	out, err := l.sqs.SendMessageBatch(l, &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: entries})
	if err != nil {
		return "whole request: " + verdict(err)
	}
	text := fmt.Sprintf("%d successful", len(out.Successful))
	for _, f := range out.Failed {
		text += fmt.Sprintf(", %s failed: `%s` sender fault %v (%s)",
			aws.ToString(f.Id), aws.ToString(f.Code), f.SenderFault, clip(aws.ToString(f.Message)))
	}
	return text
}

func sqsProbes() []probe {
	attributes := func(l *lab, url string, n int, name, value string) string {
		all := map[string]types.MessageAttributeValue{}
		for i := range n {
			all[name+strconv.Itoa(i)] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
		}
		_, err := l.sqs.SendMessage(l, &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("b"), MessageAttributes: all})
		return verdict(err)
	}
	return []probe{
		{"SQS FIFO: same deduplication id twice", func(l *lab) string {
			q := l.queue(".fifo", nil)
			a, b := must(l.send(q, "one", "g", "d")), must(l.send(q, "two", "g", "d"))
			return fmt.Sprintf("%s; same message id %v, same sequence number %v", list(l.drain(q)),
				*a.MessageId == *b.MessageId, aws.ToString(a.SequenceNumber) == aws.ToString(b.SequenceNumber))
		}},
		{"SQS FIFO: same deduplication id after the first was deleted", func(l *lab) string {
			q := l.queue(".fifo", nil)
			must(l.send(q, "one", "g", "d"))
			first := len(l.drain(q))
			must(l.send(q, "two", "g", "d"))
			return fmt.Sprintf("%d, then %s", first, list(l.drain(q)))
		}},
		{"SQS FIFO: same deduplication id in two groups", func(l *lab) string {
			q := l.queue(".fifo", nil)
			must(l.send(q, "one", "g1", "d"))
			must(l.send(q, "two", "g2", "d"))
			return list(l.drain(q))
		}},
		{"SQS FIFO, DeduplicationScope=messageGroup: same id in two groups", func(l *lab) string {
			q := l.queue(".fifo", map[string]string{"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"})
			must(l.send(q, "one", "g1", "d"))
			must(l.send(q, "two", "g2", "d"))
			return list(l.drain(q))
		}},
		{"SQS FIFO: a group whose first message is in flight", func(l *lab) string {
			q := l.queue(".fifo", nil)
			for i := range 3 {
				must(l.send(q, strconv.Itoa(i), "g", strconv.Itoa(i)))
			}
			receive := func() int { return len(must(l.sqs.ReceiveMessage(l, &sqs.ReceiveMessageInput{QueueUrl: &q})).Messages) }
			return fmt.Sprintf("first receive %d message, second receive %d", receive(), receive())
		}},
		{"SQS FIFO: no group id", func(l *lab) string {
			_, err := l.send(l.queue(".fifo", nil), "b", "", "d")
			return verdict(err)
		}},
		{"SQS FIFO: no deduplication id, content-based off", func(l *lab) string {
			_, err := l.send(l.queue(".fifo", nil), "b", "g", "")
			return verdict(err)
		}},
		{"SQS FIFO: group id with a space", func(l *lab) string {
			_, err := l.send(l.queue(".fifo", nil), "b", "a b", "d")
			return verdict(err)
		}},
		{"SQS FIFO: group id of 129 characters", func(l *lab) string {
			_, err := l.send(l.queue(".fifo", nil), "b", strings.Repeat("g", 129), "d")
			return verdict(err)
		}},
		{"SQS standard: group id (fair queues)", func(l *lab) string {
			q := l.queue("", nil)
			_, err := l.send(q, "b", "g", "")
			text := verdict(err)
			for _, m := range l.drain(q) {
				text += fmt.Sprintf("; received with MessageGroupId %q", m.Attributes["MessageGroupId"])
			}
			return text
		}},
		{"SQS standard: deduplication id", func(l *lab) string {
			_, err := l.send(l.queue("", nil), "b", "", "d")
			return verdict(err)
		}},
		{"SQS: empty body", func(l *lab) string { _, err := l.send(l.queue("", nil), "", "", ""); return verdict(err) }},
		{"SQS: body with U+0001", func(l *lab) string { _, err := l.send(l.queue("", nil), "a\x01b", "", ""); return verdict(err) }},
		{"SQS batch: one body with U+0001", func(l *lab) string { return l.sendBatch(l.queue("", nil), []string{"a", "b\x01", "c"}) }},
		{"SQS batch: one empty body", func(l *lab) string { return l.sendBatch(l.queue("", nil), []string{"a", "", "c"}) }},
		{"SQS: queue's default MaximumMessageSize", func(l *lab) string { return l.queueAttribute(l.queue("", nil), "MaximumMessageSize") }},
		{"SQS: body of 1 MiB, and one byte more", func(l *lab) string {
			q := l.queue("", nil)
			_, err := l.send(q, strings.Repeat("x", mib), "", "")
			_, more := l.send(q, strings.Repeat("x", mib+1), "", "")
			return verdict(err) + "; " + verdict(more)
		}},
		{"SQS: body above the queue's own MaximumMessageSize of 1 KiB", func(l *lab) string {
			_, err := l.send(l.queue("", map[string]string{"MaximumMessageSize": "1024"}), strings.Repeat("x", kib+1), "", "")
			return verdict(err)
		}},
		{"SQS batch: one entry above the queue's own 1 KiB", func(l *lab) string {
			return l.sendBatch(l.queue("", map[string]string{"MaximumMessageSize": "1024"}), []string{"a", strings.Repeat("x", kib+1)})
		}},
		{"SQS batch: one entry above 1 MiB", func(l *lab) string { return l.sendBatch(l.queue("", nil), []string{"a", strings.Repeat("x", mib+1)}) }},
		{"SQS batch: entries of 600 KiB twice", func(l *lab) string {
			return l.sendBatch(l.queue("", nil), []string{strings.Repeat("x", 600*kib), strings.Repeat("x", 600*kib)})
		}},
		{"SQS batch: 11 entries", func(l *lab) string { return l.sendBatch(l.queue("", nil), strings.Split("abcdefghijk", "")) }},
		{"SQS batch: the same id twice", func(l *lab) string { return l.sendBatch(l.queue("", nil), []string{"a", "b"}, "x", "x") }},
		{"SQS batch: id with a space", func(l *lab) string { return l.sendBatch(l.queue("", nil), []string{"a"}, "x y") }},
		{"SQS: 10 attributes", func(l *lab) string { return attributes(l, l.queue("", nil), 10, "n", "v") }},
		{"SQS: 11 attributes", func(l *lab) string { return attributes(l, l.queue("", nil), 11, "n", "v") }},
		{"SQS: attribute with an empty value", func(l *lab) string { return attributes(l, l.queue("", nil), 1, "n", "") }},
		{"SQS: attribute named AWS.x", func(l *lab) string { return attributes(l, l.queue("", nil), 1, "AWS.x", "v") }},
		{"SQS: attribute value with U+0001", func(l *lab) string { return attributes(l, l.queue("", nil), 1, "n", "v\x01") }},
		{"SQS: queue that does not exist", func(l *lab) string {
			gone := l.queue("", nil) + "-gone"
			_, err := l.send(gone, "b", "", "")
			_, lookup := l.sqs.GetQueueUrl(l, &sqs.GetQueueUrlInput{QueueName: aws.String("probe-never-made")})
			return fmt.Sprintf("SendMessage %s; SendMessageBatch %s; GetQueueUrl %s", verdict(err), l.sendBatch(gone, []string{"a"}), verdict(lookup))
		}},
	}
}
