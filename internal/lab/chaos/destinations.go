package chaos

import (
	"context"
	"fmt"
	"os"
	"slices"
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

// destination is where outbox topics go, and the queues in which they arrive.
type destination struct {
	topic         string // or with an asterisk at the end, the beginning of the names of several
	service, name string
	policy        string // of the topics, in the worker's configuration
	queues        []queue
	topics        []string // the several
	// lets reports whether later events of a key pass a dead letter. A FIFO queue then has no order
	// after a redrive, so the harness refuses none of its events for good.
	lets bool
}

type queue struct {
	name     string
	envelope bool
}

// destinations are of every kind: SNS and SQS, standard and FIFO, raw and not.
var destinations = []destination{
	{topic: "orders", service: "sns", name: "orders-events", queues: []queue{{name: "orders-raw"}, {name: "orders-envelope", envelope: true}}},
	{topic: "ledger", service: "sns", name: "ledger-events.fifo", policy: blocks, queues: []queue{{name: "ledger.fifo"}}},
	{topic: "audit", service: "sqs", name: "audit", policy: "fair: true", queues: []queue{{name: "audit"}}},
	{topic: "inventory", service: "sqs", name: "inventory.fifo", policy: blocks, queues: []queue{{name: "inventory.fifo"}}},
}

// blocks is the policy of topics with an ordered destination, or a redriven event comes after later ones of
// its key, as it may then.
const blocks = "onPoison: block"

// sparse are destinations of the rare topics.
var sparse = []destination{
	{topic: unrouted, service: "sqs", name: "later", queues: []queue{{name: "later"}}},
	{topic: "many-*", service: "sqs", name: "many", queues: []queue{{name: "many"}}, topics: manyTopics()},
}

// families are the kinds of destinations of the topics beyond those of destinations, see crowd.
var families = []destination{
	{topic: "plain", service: "sqs", name: "plain", queues: []queue{{name: "plain"}}},
	{topic: "fan", service: "sns", name: "fan-events", queues: []queue{{name: "fan-raw"}, {name: "fan-envelope", envelope: true}}},
	{topic: "line", service: "sqs", name: "line.fifo", queues: []queue{{name: "line.fifo"}}, lets: true},
	{topic: "stream", service: "sns", name: "stream-events.fifo", queues: []queue{{name: "stream.fifo"}}, lets: true},
	{topic: "strict", service: "sqs", name: "strict.fifo", policy: blocks, queues: []queue{{name: "strict.fifo"}}},
	{topic: "capped", service: "sqs", name: "capped", policy: "maxPerSecond: 20", queues: []queue{{name: "capped"}}},
	{topic: "shuffled", service: "sqs", name: "shuffled", policy: "fair: true", queues: []queue{{name: "shuffled"}}},
}

// perFamily is how many destinations each family has.
const perFamily = 3

// crowd returns the destinations of n topics, which share them evenly.
func crowd(n int) (list []destination) {
	for i := range min(n, len(families)*perFamily) {
		d := families[i%len(families)]
		number := fmt.Sprint("-", i/len(families)+1)
		for t := i; t < n; t += len(families) * perFamily {
			d.topics = append(d.topics, fmt.Sprintf("%s%s-%03d", d.topic, number, t))
		}
		d.topic, d.name, d.queues = d.topic+number+"-*", numbered(d.name, number), slices.Clone(d.queues)
		for q := range d.queues {
			d.queues[q].name = numbered(d.queues[q].name, number)
		}
		list = append(list, d)
	}
	return list
}

// numbered adds a number to the name of a topic or queue.
func numbered(name, number string) string {
	name, fifo := strings.CutSuffix(name, fifoSuffix)
	if fifo {
		return name + number + fifoSuffix
	}
	return name + number
}

const fifoSuffix = ".fifo"

func ordered(name string) bool { return strings.HasSuffix(name, fifoSuffix) }

// names are the outbox topics.
func (d destination) names() []string {
	if d.topics != nil {
		return d.topics
	}
	return []string{d.topic}
}

// destinations makes topics and queues, and the worker's configuration.
func (fx *fixture) destinations(ctx context.Context) (err error) {
	if fx.aws, err = awsConfig(ctx, fx.env); err != nil {
		return err
	}
	fx.sqs = sqs.NewFromConfig(fx.aws)
	for _, d := range fx.cfg.destinations() {
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

// destinations are those of the run.
func (c Config) destinations() []destination {
	all := slices.Concat(destinations, crowd(c.Topics-len(destinations)))
	if c.wide {
		all = append(all, sparse...)
	}
	return all
}

// configure writes the workers' configuration, in which one topic has no route at first.
func (fx *fixture) configure(routed bool) error {
	var config strings.Builder
	config.WriteString("topics:\n")
	for _, d := range fx.cfg.destinations() {
		if d.topic == unrouted && !routed {
			continue
		}
		for _, name := range d.names() {
			fmt.Fprintf(&config, "  %s: {%s: %s", name, d.service, fx.named(d.name))
			if d.policy != "" {
				config.WriteString(", " + d.policy)
			}
			config.WriteString("}\n")
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
func (fx *fixture) of(topic string) destination {
	for _, d := range fx.cfg.destinations() {
		if slices.Contains(d.names(), topic) {
			return d
		}
	}
	return destination{}
}

// spared are the names of destinations whose events are never refused for good.
func (fx *fixture) spared() (names []string) {
	for _, d := range fx.cfg.destinations() {
		if d.lets {
			names = append(names, fx.named(d.name))
		}
	}
	return names
}

// aim is the destination's name on the endpoint, and empty for all topics.
func (fx *fixture) aim(topic string) string {
	if topic == "" {
		return ""
	}
	return fx.named(fx.of(topic).name)
}

func (fx *fixture) queuesToDrain() (list []consume.Queue) {
	for _, d := range fx.cfg.destinations() {
		for _, q := range d.queues {
			list = append(list, consume.Queue{Name: q.name, URL: fx.made.QueueURLs[fx.named(q.name)], Envelope: q.envelope})
		}
	}
	return list
}

func (fx *fixture) queuesToCheck() (list []check.Queue) {
	for _, d := range fx.cfg.destinations() {
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
	if fx.of(topic).service == "sns" {
		_, err = sns.NewFromConfig(fx.aws).DeleteTopic(ctx, &sns.DeleteTopicInput{TopicArn: aws.String(fx.made.TopicARNs[name])})
	} else {
		_, err = fx.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: aws.String(fx.made.QueueURLs[name])})
	}
	return err
}
