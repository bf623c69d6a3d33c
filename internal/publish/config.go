package publish

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/sns"
	"github.com/temporal-outbox/relay/internal/publish/sqs"
	"github.com/temporal-outbox/relay/internal/timing"
)

// Destination configures where a topic's events go. Exactly one of SNS and SQS is set.
// A name (or ARN, or URL) that ends in ".fifo" makes the destination ordered.
type Destination struct {
	SNS string // topic name or ARN
	SQS string // queue name or URL
	// Fair sets MessageGroupId to the event's key on a standard destination,
	// which turns on SQS fair queues there. A FIFO destination has its group
	// ids anyway, so Fair is a mistake with one.
	Fair bool
	// KeyRequests says how many events of a key a request to a FIFO destination has. Default: SingleKeys.
	KeyRequests KeyRequests
	// Fill is how long an event waits for others that share its request, at most MaxFill. A full request does not
	// wait. Only a Sender waits, not Publish. Default: 0, it does not wait.
	Fill time.Duration
}

// MaxFill is the most of Destination.Fill: events in hand that wait leave no room for others.
const MaxFill = time.Second

// KeyRequests says how many events of a key a request to a FIFO destination has.
type KeyRequests string

const (
	// SingleKeys sends one event of a key in a request, and the next one when it is accepted.
	SingleKeys KeyRequests = "single"
	// BatchedKeys sends up to ten consecutive events of a key in a request, in order. There is still one request
	// of a key in flight. If the destination accepts only some events of a request, a later event of a key may
	// arrive before an earlier one.
	BatchedKeys KeyRequests = "batched"
)

// Ordered reports whether the destination keeps the events of a key in order. Its name says so.
func (d Destination) Ordered() bool { return awsapi.IsFIFO(d.SNS + d.SQS) }

// Mistake is one thing that is wrong with a Destination.
type Mistake struct {
	Key string // "sns", "sqs", "fair", "keyRequests" or "fill"; "" if it is none of them
	Err error
}

// Mistakes returns everything that is wrong with a topic's destination, as far as that can be
// told without asking AWS and without knowing the region.
func (d Destination) Mistakes(topic string) []Mistake {
	_, mistakes := parse(topic, d, "")
	return mistakes
}

// parse turns a configured destination into a route as far as that goes without
// asking AWS.
func parse(topic string, d Destination, region string) (r Route, wrong []Mistake) {
	r = Route{Topic: topic, Region: region, Fair: d.Fair, Fill: d.Fill, Guessed: true}
	note := func(key string, err error) {
		if err != nil {
			wrong = append(wrong, Mistake{key, err})
		}
	}
	if topic == "" {
		note("", errors.New("the topic's name is empty"))
	}
	var err error
	switch {
	case d.SNS != "" && d.SQS != "":
		note("sqs", errors.New("has both an SNS and an SQS destination: remove one"))
		return r, wrong
	case d.SNS != "":
		r.Name = d.SNS
		r, err = sns.Parse(r)
		note("sns", err)
	case d.SQS != "":
		r.Name = d.SQS
		r, err = sqs.Parse(r)
		note("sqs", err)
	default:
		note("", errors.New("has no destination: set sns to a topic's name or ARN, or sqs to a queue's name or URL"))
	}
	if r.Ordered && r.Fair {
		note("fair", fmt.Errorf("%s is FIFO, where the key is the group id anyway: remove fair", r))
	}
	if d.Fill < 0 || d.Fill > MaxFill {
		note("fill", fmt.Errorf("fill is %s: it must be from 0s to %s", d.Fill, MaxFill))
	}
	switch d.KeyRequests {
	case "", SingleKeys:
	case BatchedKeys:
		if r.Batched = r.Ordered; !r.Ordered {
			note("keyRequests", errors.New("keyRequests is batched, but the destination keeps no order: use a FIFO destination, or remove keyRequests"))
		}
	default:
		note("keyRequests", fmt.Errorf("keyRequests is %q: it must be single or batched", d.KeyRequests))
	}
	return r, wrong
}

// Config configures a Publisher. Topics and AWS are required.
type Config struct {
	// Topics maps the logical name that events are written to, to where they go.
	Topics map[string]Destination

	// AWS is the configuration as loaded by the SDK's default chain. Its
	// retryer is replaced, see Attempts; its HTTP client is copied with a
	// larger pool of idle connections and an attempt timeout, unless it is one
	// of the caller's own making, which is used as it is.
	AWS aws.Config

	// RequestTimeout bounds a request with all its attempts. Default: timing.RequestTimeout.
	RequestTimeout time.Duration

	// AttemptTimeout bounds one attempt of a request, from dialling to the last
	// byte of the response. Without one the SDK waits for a silent server for
	// ever. Default: half of RequestTimeout, less a little for the backoff.
	AttemptTimeout time.Duration

	// Attempts is how often the SDK sends a request, the first time included.
	// Longer patience is the caller's business: outer retries multiply with
	// these. Default: 2.
	Attempts int

	// RefreshAfter is the age after which a destination's size limit is looked
	// up again. Default: 10 minutes.
	RefreshAfter time.Duration

	// Traces gets a span for every request, as a child of the span in Publish's
	// context, and linked to the spans that its events were written in. Default:
	// none, and then tracing costs nothing.
	Traces trace.TracerProvider
}

func (c Config) withDefaults() Config {
	if c.RequestTimeout == 0 {
		c.RequestTimeout = timing.RequestTimeout
	}
	if c.AttemptTimeout == 0 && c.RequestTimeout > 0 {
		c.AttemptTimeout = max((c.RequestTimeout-awsapi.MaxBackoff)/2, c.RequestTimeout/4)
	}
	if c.Attempts == 0 {
		c.Attempts = 2
	}
	if c.RefreshAfter == 0 {
		c.RefreshAfter = 10 * time.Minute
	}
	return c
}

// New checks the configuration and reports everything that is wrong with it in
// one error. It does not touch the network: Resolve does.
func New(cfg Config) (*Publisher, error) {
	cfg = cfg.withDefaults()
	p := &Publisher{
		cfg:    cfg,
		routes: make(map[string]*cachedRoute, len(cfg.Topics)),
	}
	var problems []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"RequestTimeout", cfg.RequestTimeout},
		{"AttemptTimeout", cfg.AttemptTimeout},
		{"RefreshAfter", cfg.RefreshAfter},
	} {
		if d.value < 0 {
			problems = append(problems, fmt.Errorf("%s is %s: it cannot be negative", d.name, d.value))
		}
	}
	if cfg.Attempts < 0 {
		problems = append(problems, fmt.Errorf("%d Attempts: there must be at least 1", cfg.Attempts))
	}
	for topic, destination := range cfg.Topics {
		route, mistakes := parse(topic, destination, cfg.AWS.Region)
		if len(mistakes) == 0 && route.Region == "" {
			mistakes = []Mistake{{"", fmt.Errorf("%s: no region: set AWS_REGION", route)}}
		}
		for _, m := range mistakes {
			problems = append(problems, fmt.Errorf("topic %q: %w", topic, m.Err))
		}
		p.routes[topic] = newCachedRoute(route)
	}
	if len(problems) > 0 {
		// Maps have no order, and an error that reads differently every time
		// is hard to compare.
		slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("publish configuration: %w", errors.Join(problems...))
	}
	api := awsapi.Config(cfg.AWS, cfg.Attempts, cfg.AttemptTimeout)
	p.sns = sns.New(api, cfg.RequestTimeout)
	p.sqs = sqs.New(api)
	p.drivers = map[Service]destination.Driver{SNS: p.sns, SQS: p.sqs}
	if cfg.Traces != nil {
		p.tracer = cfg.Traces.Tracer(tracerName, trace.WithSchemaURL(semconv.SchemaURL))
	}
	return p, nil
}
