package topology

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
)

func (a *applier) topic(ctx context.Context, t Topic) error {
	arn, err := a.findTopic(ctx, t.Name)
	if err != nil {
		return err
	}
	if arn == "" {
		attributes := map[string]string{}
		if fifo(t.Name) {
			attributes["FifoTopic"] = "true"
		}
		created, err := a.sns.CreateTopic(ctx, &sns.CreateTopicInput{Name: &t.Name, Attributes: attributes})
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		arn = aws.ToString(created.TopicArn)
		a.changed("topic %s: created", t.Name)
	}
	a.TopicARNs[t.Name] = arn
	if len(t.Attributes) == 0 {
		return nil
	}
	have, err := a.sns.GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &arn})
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Attributes)) {
		if same(have.Attributes[name], t.Attributes[name]) {
			continue
		}
		_, err := a.sns.SetTopicAttributes(ctx, &sns.SetTopicAttributesInput{
			TopicArn: &arn, AttributeName: aws.String(name), AttributeValue: aws.String(t.Attributes[name]),
		})
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
		a.changed("topic %s: %s set", t.Name, name)
	}
	return nil
}

// findTopic returns the ARN of a topic, or nothing. CreateTopic would answer with
// an existing topic too, but could not tell whether it had just created it.
func (a *applier) findTopic(ctx context.Context, name string) (string, error) {
	pages := sns.NewListTopicsPaginator(a.sns, &sns.ListTopicsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", fmt.Errorf("list topics: %w", err)
		}
		for _, topic := range page.Topics {
			if arn := aws.ToString(topic.TopicArn); strings.HasSuffix(arn, ":"+name) {
				return arn, nil
			}
		}
	}
	return "", nil
}

func (a *applier) subscription(ctx context.Context, s Subscription) error {
	topic, queue := a.TopicARNs[s.Topic], a.QueueARNs[s.Queue]
	want := map[string]string{"RawMessageDelivery": fmt.Sprint(s.Raw)}
	if len(s.Filter) > 0 {
		want["FilterPolicy"] = encode(s.Filter)
	}
	arn, err := a.findSubscription(ctx, topic, queue)
	if err != nil {
		return err
	}
	if arn == "" {
		_, err := a.sns.Subscribe(ctx, &sns.SubscribeInput{
			TopicArn: &topic, Protocol: aws.String("sqs"), Endpoint: &queue,
			Attributes: want, ReturnSubscriptionArn: true,
		})
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		a.changed("subscription of %s to %s: created", s.Queue, s.Topic)
		return nil
	}
	have, err := a.sns.GetSubscriptionAttributes(ctx, &sns.GetSubscriptionAttributesInput{SubscriptionArn: &arn})
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	if _, filtered := have.Attributes["FilterPolicy"]; filtered && len(s.Filter) == 0 {
		want["FilterPolicy"] = "{}" // SNS has no other way to lift a filter
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if same(have.Attributes[name], want[name]) {
			continue
		}
		_, err := a.sns.SetSubscriptionAttributes(ctx, &sns.SetSubscriptionAttributesInput{
			SubscriptionArn: &arn, AttributeName: aws.String(name), AttributeValue: aws.String(want[name]),
		})
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
		a.changed("subscription of %s to %s: %s set", s.Queue, s.Topic, name)
	}
	return nil
}

func (a *applier) findSubscription(ctx context.Context, topic, queue string) (string, error) {
	pages := sns.NewListSubscriptionsByTopicPaginator(a.sns, &sns.ListSubscriptionsByTopicInput{TopicArn: &topic})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", fmt.Errorf("list subscriptions: %w", err)
		}
		for _, found := range page.Subscriptions {
			if aws.ToString(found.Endpoint) == queue {
				return aws.ToString(found.SubscriptionArn), nil
			}
		}
	}
	return "", nil
}

// encode is for maps and slices of strings, which always encode.
func encode(value any) string {
	text, _ := json.Marshal(value)
	return string(text)
}
