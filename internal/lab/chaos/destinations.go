package chaos

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/consume"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/localstack/topology"
)

// destination is where an outbox topic goes, and the queues in which it arrives.
type destination struct {
	topic, service, name string
	fair                 bool
	queues               []queue
}

type queue struct {
	name     string
	envelope bool
}

// destinations are of every kind: SNS and SQS, standard and FIFO, raw and not.
var destinations = []destination{
	{topic: "orders", service: "sns", name: "orders-events", queues: []queue{{name: "orders-raw"}, {name: "orders-envelope", envelope: true}}},
	{topic: "ledger", service: "sns", name: "ledger-events.fifo", queues: []queue{{name: "ledger.fifo"}}},
	{topic: "audit", service: "sqs", name: "audit", fair: true, queues: []queue{{name: "audit"}}},
	{topic: "inventory", service: "sqs", name: "inventory.fifo", queues: []queue{{name: "inventory.fifo"}}},
}

// sparse are destinations of the rare topics.
var sparse = []destination{
	{topic: unrouted, service: "sqs", name: "later", queues: []queue{{name: "later"}}},
	{topic: "many-*", service: "sqs", name: "many", queues: []queue{{name: "many"}}},
}

func ordered(name string) bool { return strings.HasSuffix(name, ".fifo") }

// destinations makes topics and queues, and the worker's configuration.
func (b *bed) destinations(ctx context.Context) (err error) {
	if b.aws, err = awsConfig(ctx, b.env); err != nil {
		return err
	}
	b.sqs = sqs.NewFromConfig(b.aws)
	for _, d := range b.all() {
		if d.service == "sns" {
			b.topology.Topics = append(b.topology.Topics, topology.Topic{Name: b.named(d.name)})
		}
		for _, q := range d.queues {
			b.topology.Queues = append(b.topology.Queues, topology.Queue{Name: b.named(q.name)})
			if d.service == "sns" {
				b.topology.Subscriptions = append(b.topology.Subscriptions,
					topology.Subscription{Topic: b.named(d.name), Queue: b.named(q.name), Raw: !q.envelope})
			}
		}
	}
	if err := b.configure(false); err != nil {
		return err
	}
	b.made, err = b.topology.Apply(ctx, b.aws)
	if err != nil {
		return fmt.Errorf("create topics and queues: %w", err)
	}
	return nil
}

// all are the destinations of the run.
func (b *bed) all() []destination {
	if !b.cfg.wide {
		return destinations
	}
	return append(append([]destination(nil), destinations...), sparse...)
}

// configure writes the workers' configuration, in which one topic has no route at first.
func (b *bed) configure(routed bool) error {
	var config strings.Builder
	config.WriteString("topics:\n")
	for _, d := range b.all() {
		more := ""
		switch {
		case d.fair:
			more = ", fair: true"
		case ordered(d.name):
			// Or a redriven event comes after later ones of its key, as it may then.
			more = ", onPoison: block"
		}
		names := []string{d.topic}
		switch {
		case d.topic == unrouted && !routed:
			continue
		case d.topic == "many-*":
			names = nil
			for n := range manyTopics {
				names = append(names, many(n))
			}
		}
		for _, name := range names {
			fmt.Fprintf(&config, "  %s: {%s: %s%s}\n", name, d.service, b.named(d.name), more)
		}
	}
	return os.WriteFile(b.env.Get("OUTBOX_CONFIG"), []byte(config.String()), 0o600)
}

// routeTopic gives the topic without a route one, as a deployment does.
func (b *bed) routeTopic(_ context.Context, step plan.Step) error {
	if err := b.configure(true); err != nil {
		return err
	}
	b.workers.TerminateAll()
	b.count(string(step.Kind))
	return nil
}

// named is the name of a topic or queue on the endpoint.
func (b *bed) named(name string) string { return b.token + "-" + name }

// of is the destination of an outbox topic.
func of(topic string) destination {
	for _, d := range destinations {
		if d.topic == topic {
			return d
		}
	}
	return destination{}
}

// aim is the destination's name on the endpoint, and empty for all topics.
func (b *bed) aim(topic string) string {
	if topic == "" {
		return ""
	}
	return b.named(of(topic).name)
}

func (b *bed) queuesToDrain() (list []consume.Queue) {
	for _, d := range b.all() {
		for _, q := range d.queues {
			list = append(list, consume.Queue{Name: q.name, URL: b.made.QueueURLs[b.named(q.name)], Envelope: q.envelope})
		}
	}
	return list
}

func (b *bed) queuesToCheck() (list []check.Queue) {
	for _, d := range b.all() {
		for _, q := range d.queues {
			list = append(list, check.Queue{Name: q.name, Topic: d.topic, Ordered: ordered(d.name), Groups: ordered(d.name)})
		}
	}
	return list
}

// empty reports whether a queue has nothing that a consumer may still receive.
func (b *bed) empty(ctx context.Context, name string) (bool, error) {
	out, err := b.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(b.made.QueueURLs[b.named(name)]), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	if err != nil {
		return false, fmt.Errorf("read attributes of %s: %w", name, err)
	}
	return out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0", nil
}

// remove deletes an outbox topic's destination.
func (b *bed) remove(ctx context.Context, topic string) (err error) {
	name := b.aim(topic)
	if of(topic).service == "sns" {
		_, err = sns.NewFromConfig(b.aws).DeleteTopic(ctx, &sns.DeleteTopicInput{TopicArn: aws.String(b.made.TopicARNs[name])})
	} else {
		_, err = b.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: aws.String(b.made.QueueURLs[name])})
	}
	return err
}
