package topology

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// Resources is what exists after Apply.
type Resources struct {
	TopicARNs map[string]string // by topic name
	QueueURLs map[string]string // by queue name
	QueueARNs map[string]string // by queue name
	// Changes says what Apply had to create or correct, in order. It is empty
	// if everything was as described.
	Changes []string
}

// applier carries one Apply.
type applier struct {
	sns *sns.Client
	sqs *sqs.Client
	Resources
}

// Apply makes the endpoint that cfg names match the topology: it creates what is
// missing, corrects attributes that differ, and leaves everything else alone.
// Applying twice changes nothing. It stops at the first error. Everything that it had
// created by then stays, and the next Apply goes on from there.
func (t Topology) Apply(ctx context.Context, cfg aws.Config) (*Resources, error) {
	a := &applier{sns: sns.NewFromConfig(cfg), sqs: sqs.NewFromConfig(cfg)}
	a.TopicARNs, a.QueueURLs, a.QueueARNs = map[string]string{}, map[string]string{}, map[string]string{}
	for _, topic := range t.Topics {
		if err := a.topic(ctx, topic); err != nil {
			return nil, fmt.Errorf("topic %s: %w", topic.Name, err)
		}
	}
	for _, queue := range t.Queues {
		if err := a.queue(ctx, queue); err != nil {
			return nil, fmt.Errorf("queue %s: %w", queue.Name, err)
		}
	}
	// Policies name ARNs of other queues and topics, so they come after all.
	for _, queue := range t.Queues {
		if err := a.policies(ctx, queue, t.Subscriptions); err != nil {
			return nil, fmt.Errorf("queue %s: %w", queue.Name, err)
		}
	}
	for _, s := range t.Subscriptions {
		if err := a.subscription(ctx, s); err != nil {
			return nil, fmt.Errorf("subscription of %s to %s: %w", s.Queue, s.Topic, err)
		}
	}
	return &a.Resources, nil
}

func (a *applier) changed(format string, args ...any) {
	a.Changes = append(a.Changes, fmt.Sprintf(format, args...))
}

func (a *applier) queue(ctx context.Context, q Queue) error {
	found, err := a.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &q.Name})
	if err == nil {
		a.QueueURLs[q.Name] = aws.ToString(found.QueueUrl)
	} else if missing := (*sqstypes.QueueDoesNotExist)(nil); !errors.As(err, &missing) {
		return fmt.Errorf("look up: %w", err)
	} else {
		attributes := maps.Clone(q.Attributes)
		if fifo(q.Name) {
			attributes = with(attributes, "FifoQueue", "true")
		}
		created, err := a.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &q.Name, Attributes: attributes})
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		a.QueueURLs[q.Name] = aws.ToString(created.QueueUrl)
		a.changed("queue %s: created", q.Name)
	}
	have, err := a.queueAttributes(ctx, q.Name)
	if err != nil {
		return err
	}
	a.QueueARNs[q.Name] = have["QueueArn"]
	return nil
}

// policies sets the queue's own attributes, its redrive policy and the policy
// that lets topics send to it, where they differ.
func (a *applier) policies(ctx context.Context, q Queue, subscriptions []Subscription) error {
	want := maps.Clone(q.Attributes)
	if dead := q.DeadLetters; dead != nil {
		want = with(want, "RedrivePolicy", redrivePolicy(a.QueueARNs[dead.Queue], dead.MaxReceives))
	}
	var topics []string
	for _, s := range subscriptions {
		if s.Queue == q.Name {
			topics = append(topics, a.TopicARNs[s.Topic])
		}
	}
	if len(topics) > 0 {
		want = with(want, "Policy", accessPolicy(a.QueueARNs[q.Name], topics))
	}
	have, err := a.queueAttributes(ctx, q.Name)
	if err != nil {
		return err
	}
	set := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !same(have[name], want[name]) {
			set[name] = want[name]
			a.changed("queue %s: %s set", q.Name, name)
		}
	}
	if len(set) == 0 {
		return nil
	}
	_, err = a.sqs.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{
		QueueUrl: aws.String(a.QueueURLs[q.Name]), Attributes: set,
	})
	if err != nil {
		return fmt.Errorf("set attributes: %w", err)
	}
	return nil
}

func (a *applier) queueAttributes(ctx context.Context, name string) (map[string]string, error) {
	out, err := a.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       aws.String(a.QueueURLs[name]),
		AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameAll},
	})
	if err != nil {
		return nil, fmt.Errorf("read attributes: %w", err)
	}
	return out.Attributes, nil
}
