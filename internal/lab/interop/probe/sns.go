package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
)

var raw = map[string]string{"RawMessageDelivery": "true"}

func (l *lab) publish(arn, body, group, dedup string, attributes map[string]string) error {
	in := &sns.PublishInput{TopicArn: &arn, Message: &body, MessageAttributes: map[string]types.MessageAttributeValue{}}
	if group != "" {
		in.MessageGroupId = &group
	}
	if dedup != "" {
		in.MessageDeduplicationId = &dedup
	}
	for name, value := range attributes {
		in.MessageAttributes[name] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String(value)}
	}
	_, err := l.sns.Publish(l, in)
	return err
}

func (l *lab) publishBatch(arn, group string, bodies ...string) string {
	var entries []types.PublishBatchRequestEntry
	for i, body := range bodies {
		e := types.PublishBatchRequestEntry{Id: aws.String("e" + strconv.Itoa(i)), Message: aws.String(body)}
		if group != "" {
			e.MessageGroupId, e.MessageDeduplicationId = &group, e.Id
		}
		entries = append(entries, e)
	}
	out, err := l.sns.PublishBatch(l, &sns.PublishBatchInput{TopicArn: &arn, PublishBatchRequestEntries: entries})
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

// filtered publishes one event of each type through a filter and lists what passed.
func filtered(policy string, more ...string) func(*lab) string {
	return func(l *lab) string {
		subscription := map[string]string{"RawMessageDelivery": "true", "FilterPolicy": policy}
		if len(more) > 0 {
			subscription["FilterPolicyScope"] = more[0]
		}
		arn, q := l.topic("", subscription)
		for _, kind := range []string{"OrderPaid", "OrderPlaced", "Other"} {
			if err := l.publish(arn, `{"t":"`+kind+`"}`, "", "", map[string]string{"t": kind}); err != nil {
				return verdict(err)
			}
		}
		if err := l.publish(arn, `{}`, "", "", nil); err != nil {
			return verdict(err)
		}
		return list(l.drain(q))
	}
}

func numbered(n int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out["n"+strconv.Itoa(i)] = "v"
	}
	return out
}

func snsProbes() []probe {
	return []probe{
		{"SNS FIFO to SQS FIFO: same deduplication id twice", func(l *lab) string {
			arn, q := l.topic(".fifo", raw)
			first, second := l.publish(arn, "one", "g", "d", nil), l.publish(arn, "two", "g", "d", nil)
			return fmt.Sprintf("%s, %s; %s", verdict(first), verdict(second), list(l.drain(q)))
		}},
		{"SNS FIFO to SQS FIFO: same deduplication id in two groups", func(l *lab) string {
			arn, q := l.topic(".fifo", raw)
			first, second := l.publish(arn, "one", "g1", "d", nil), l.publish(arn, "two", "g2", "d", nil)
			return fmt.Sprintf("%s, %s; %s", verdict(first), verdict(second), list(l.drain(q)))
		}},
		{"SNS FIFO to SQS FIFO: order of a batch in one group", func(l *lab) string {
			arn, q := l.topic(".fifo", raw)
			return l.publishBatch(arn, "g", strings.Split("abcdefghij", "")...) + "; " + list(l.drain(q))
		}},
		{"SNS FIFO: no group id", func(l *lab) string {
			arn, _ := l.topic(".fifo", raw)
			return verdict(l.publish(arn, "b", "", "d", nil))
		}},
		{"SNS FIFO: group id with a space", func(l *lab) string {
			arn, _ := l.topic(".fifo", raw)
			return verdict(l.publish(arn, "b", "a b", "d", nil))
		}},
		{"SNS standard: group id, forwarded to a standard queue", func(l *lab) string {
			arn, q := l.topic("", raw)
			text := verdict(l.publish(arn, "b", "g", "", nil))
			for _, m := range l.drain(q) {
				text += fmt.Sprintf("; received with MessageGroupId %q", m.Attributes["MessageGroupId"])
			}
			return text
		}},
		{"filter: exact values", filtered(`{"t":["OrderPaid"]}`)},
		{"filter: prefix", filtered(`{"t":[{"prefix":"Order"}]}`)},
		{"filter: anything-but", filtered(`{"t":[{"anything-but":["OrderPaid"]}]}`)},
		{"filter: exists false", filtered(`{"t":[{"exists":false}]}`)},
		{"filter: on the body", filtered(`{"t":["OrderPaid"]}`, "MessageBody")},
		{"raw delivery off", func(l *lab) string {
			arn, q := l.topic("", nil)
			must(0, l.publish(arn, "b", "", "", numbered(1)))
			return list(l.drain(q))
		}},
		{"raw delivery: 10 attributes, then 11", func(l *lab) string {
			text := ""
			for _, n := range []int{10, 11} {
				arn, q := l.topic("", raw)
				text += verdict(l.publish(arn, "b", "", "", numbered(n)))
				for _, m := range l.drain(q) {
					text += fmt.Sprintf(", delivered with %d attributes", len(m.MessageAttributes))
				}
				text += "; "
			}
			return text
		}},
		{"SNS: empty message", func(l *lab) string { arn, _ := l.topic("", raw); return verdict(l.publish(arn, "", "", "", nil)) }},
		{"SNS: message with U+0001", func(l *lab) string {
			arn, q := l.topic("", raw)
			return verdict(l.publish(arn, "a\x01b", "", "", nil)) + fmt.Sprintf("; %d delivered", len(l.drain(q)))
		}},
		{"SNS: attribute with an empty value", func(l *lab) string {
			arn, _ := l.topic("", raw)
			return verdict(l.publish(arn, "b", "", "", map[string]string{"n": ""}))
		}},
		{"SNS batch: one empty message", func(l *lab) string { arn, _ := l.topic("", raw); return l.publishBatch(arn, "", "a", "", "c") }},
		{"SNS batch: one message with U+0001", func(l *lab) string { arn, _ := l.topic("", raw); return l.publishBatch(arn, "", "a", "b\x01", "c") }},
		{"SNS: topic's MaximumMessageSize by default, and set to 1 MiB", func(l *lab) string { return l.maximum(func(string) string { return "" }) }},
		{"SNS: message of 256 KiB, and one byte more", func(l *lab) string {
			arn, _ := l.topic("", raw)
			return verdict(l.publish(arn, strings.Repeat("x", 256*kib), "", "", nil)) + "; " +
				verdict(l.publish(arn, strings.Repeat("x", 256*kib+1), "", "", nil))
		}},
		{"SNS: message of 1 MiB on a topic with MaximumMessageSize of 1 MiB", func(l *lab) string {
			return l.maximum(func(arn string) string { return verdict(l.publish(arn, strings.Repeat("x", mib), "", "", nil)) })
		}},
		{"SNS batch: one entry above 256 KiB", func(l *lab) string {
			arn, _ := l.topic("", raw)
			return l.publishBatch(arn, "", "a", strings.Repeat("x", 256*kib+1))
		}},
		{"SNS batch: entries of 150 KiB twice", func(l *lab) string {
			arn, _ := l.topic("", raw)
			return l.publishBatch(arn, "", strings.Repeat("x", 150*kib), strings.Repeat("x", 150*kib))
		}},
		{"SNS batch: 11 entries", func(l *lab) string {
			arn, _ := l.topic("", raw)
			return l.publishBatch(arn, "", strings.Split("abcdefghijk", "")...)
		}},
		{"SNS: topic that does not exist", func(l *lab) string {
			arn, _ := l.topic("", raw)
			return fmt.Sprintf("Publish %s; PublishBatch %s", verdict(l.publish(arn+"-gone", "b", "", "", nil)), l.publishBatch(arn+"-gone", "", "a"))
		}},
	}
}

// maximum reads the limit, raises it and tells both; then it tries something.
func (l *lab) maximum(try func(arn string) string) string {
	arn, _ := l.topic("", raw)
	read := func() string {
		return must(l.sns.GetTopicAttributes(l, &sns.GetTopicAttributesInput{TopicArn: &arn})).Attributes["MaximumMessageSize"]
	}
	before := read()
	_, err := l.sns.SetTopicAttributes(l, &sns.SetTopicAttributesInput{
		TopicArn: &arn, AttributeName: aws.String("MaximumMessageSize"), AttributeValue: aws.String(strconv.Itoa(mib)),
	})
	return fmt.Sprintf("default %q; set: %s, then %q %s", before, verdict(err), read(), try(arn))
}
