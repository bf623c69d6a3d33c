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
func (fx *fixture) destinations(ctx context.Context) (err error) {
	if fx.aws, err = awsConfig(ctx, fx.env); err != nil {
		return err
	}
	fx.sqs = sqs.NewFromConfig(fx.aws)
	for _, d := range fx.all() {
		if d.service == "sns" {
			fx.topology.Topics = append(fx.topology.Topics, topology.Topic{Name: fx.named(d.name)})
		}
		for _, q := range d.queues {
			fx.topology.Queues = append(fx.topology.Queues, topology.Queue{Name: fx.named(q.name)})
			if d.service == "sns" {
				fx.topology.Subscriptions = append(fx.topology.Subscriptions,
					topology.Subscription{Topic: fx.named(d.name), Queue: fx.named(q.name), Raw: !q.envelope})
			}
		}
	}
	if err := fx.configure(false); err != nil {
		return err
	}
	fx.made, err = fx.topology.Apply(ctx, fx.aws)
	if err != nil {
		return fmt.Errorf("create topics and queues: %w", err)
	}
	return nil
}

// all are the destinations of the run.
func (fx *fixture) all() []destination {
	if !fx.cfg.wide {
		return destinations
	}
	return append(append([]destination(nil), destinations...), sparse...)
}

// configure writes the workers' configuration, in which one topic has no route at first.
func (fx *fixture) configure(routed bool) error {
	var config strings.Builder
	config.WriteString("topics:\n")
	for _, d := range fx.all() {
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
			fmt.Fprintf(&config, "  %s: {%s: %s%s}\n", name, d.service, fx.named(d.name), more)
		}
	}
	return os.WriteFile(fx.env.Get("OUTBOX_CONFIG"), []byte(config.String()), 0o600)
}

// routeTopic gives the topic without a route one, as a deployment does.
func (fx *fixture) routeTopic(_ context.Context, step plan.Step) error {
	if err := fx.configure(true); err != nil {
		return err
	}
	fx.workers.TerminateAll()
	fx.count(string(step.Kind))
	return nil
}

// named is the name of a topic or queue on the endpoint.
func (fx *fixture) named(name string) string { return fx.token + "-" + name }

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
func (fx *fixture) aim(topic string) string {
	if topic == "" {
		return ""
	}
	return fx.named(of(topic).name)
}

func (fx *fixture) queuesToDrain() (list []consume.Queue) {
	for _, d := range fx.all() {
		for _, q := range d.queues {
			list = append(list, consume.Queue{Name: q.name, URL: fx.made.QueueURLs[fx.named(q.name)], Envelope: q.envelope})
		}
	}
	return list
}

func (fx *fixture) queuesToCheck() (list []check.Queue) {
	for _, d := range fx.all() {
		for _, q := range d.queues {
			list = append(list, check.Queue{Name: q.name, Topic: d.topic, Ordered: ordered(d.name), Groups: ordered(d.name)})
		}
	}
	return list
}

// empty reports whether a queue has nothing that a consumer may still receive.
func (fx *fixture) empty(ctx context.Context, name string) (bool, error) {
	out, err := fx.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(fx.made.QueueURLs[fx.named(name)]), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	if err != nil {
		return false, fmt.Errorf("read attributes of %s: %w", name, err)
	}
	return out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0", nil
}

// remove deletes an outbox topic's destination.
func (fx *fixture) remove(ctx context.Context, topic string) (err error) {
	name := fx.aim(topic)
	if of(topic).service == "sns" {
		_, err = sns.NewFromConfig(fx.aws).DeleteTopic(ctx, &sns.DeleteTopicInput{TopicArn: aws.String(fx.made.TopicARNs[name])})
	} else {
		_, err = fx.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: aws.String(fx.made.QueueURLs[name])})
	}
	return err
}
