package publish

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Service is the AWS service of a destination.
type Service string

// The services that a destination can belong to.
const (
	SNS Service = "SNS"
	SQS Service = "SQS"
)

// What a destination accepts where its own attributes cannot be read, in bytes.
const (
	// SNS takes 256 KiB unless the topic's attribute MaximumMessageSize says
	// otherwise (up to 1 MiB).
	// https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html
	fallbackLimitSNS = 256 << 10
	// SQS takes 1 MiB, for a message and for a batch.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	fallbackLimitSQS = 1 << 20
	// hardLimit is the most that either can be set to.
	hardLimit = 1 << 20
)

// Route is a topic's destination, looked up.
type Route struct {
	Topic   string
	Service Service
	// Name is the destination as configured.
	Name string
	// Address is what AWS wants to be called with: a topic ARN or a queue URL.
	// Empty until it has been resolved.
	Address string
	// Region is the one that Address lies in, or else the configured one.
	Region string
	// Ordered is true for FIFO destinations.
	Ordered bool
	// Fair is true where a standard destination gets the key as group id.
	Fair bool
	// Limit is the largest message, and the largest sum of messages in a
	// request, that the destination accepts: bytes of body and attributes.
	Limit int
	// Guessed is true while Limit is only the service's default, because the
	// destination's own is not known.
	Guessed bool
}

// refusesAbove returns the size from which an event need not be sent to know that
// it is refused. A guess is good enough to pack requests by, but not to give an
// event up for: that is left to the destination.
func (r Route) refusesAbove() int {
	if r.Guessed {
		return max(r.Limit, hardLimit)
	}
	return r.Limit
}

// String names the route the way errors and logs do: `SNS topic "orders-events"`.
func (r Route) String() string {
	if r.Service == SNS {
		return fmt.Sprintf("SNS topic %q", r.Name)
	}
	return fmt.Sprintf("SQS queue %q", r.Name)
}

// label is String for where quotation marks would be escaped again, and where
// everybody may read it.
func (r Route) label() string {
	return strings.Replace(r.String(), strconv.Quote(r.Name), shown(r.Name), 1)
}

// shown is a destination's name or address as everybody may read it: a URL
// without its user, query and fragment.
func shown(name string) string {
	u, err := url.Parse(name)
	if err != nil || u.Host == "" {
		return name
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// Names as AWS's CreateTopic and CreateQueue documentation restricts them; the
// ".fifo" counts towards the length.
var (
	topicName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}$|^[A-Za-z0-9_-]{1,251}\.fifo$`)
	queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$|^[A-Za-z0-9_-]{1,75}\.fifo$`)
)

// parse turns a configured destination into a route as far as that goes without
// asking AWS.
func parse(topic string, d Destination, region string) (r Route, wrong []Mistake) {
	r = Route{Topic: topic, Region: region, Fair: d.Fair, Guessed: true}
	note := func(key string, err error) {
		if err != nil {
			wrong = append(wrong, Mistake{key, err})
		}
	}
	if topic == "" {
		note("", errors.New("the topic's name is empty"))
	}
	switch {
	case d.SNS != "" && d.SQS != "":
		note("sqs", errors.New("has both an SNS and an SQS destination: remove one"))
		return r, wrong
	case d.SNS != "":
		r.Service, r.Name, r.Limit = SNS, d.SNS, fallbackLimitSNS
		note("sns", r.parseTopic())
	case d.SQS != "":
		r.Service, r.Name, r.Limit = SQS, d.SQS, fallbackLimitSQS
		note("sqs", r.parseQueue())
	default:
		note("", errors.New("has no destination: set sns to a topic's name or ARN, or sqs to a queue's name or URL"))
	}
	if r.Ordered = strings.HasSuffix(r.Name, ".fifo"); r.Ordered && r.Fair {
		note("fair", fmt.Errorf("%s is FIFO, where the key is the group id anyway: remove fair", r))
	}
	return r, wrong
}

func (r *Route) parseTopic() error {
	if !strings.HasPrefix(r.Name, "arn:") {
		if !topicName.MatchString(r.Name) {
			return fmt.Errorf("%s: neither a topic's name nor an ARN", r)
		}
		return nil
	}
	// arn:partition:sns:region:account:name
	part := strings.Split(r.Name, ":")
	if len(part) != 6 || part[2] != "sns" || part[3] == "" || part[4] == "" || !topicName.MatchString(part[5]) {
		return fmt.Errorf("%s: not the ARN of a topic, which reads arn:aws:sns:REGION:ACCOUNT:NAME", r)
	}
	r.Address, r.Region = r.Name, part[3]
	return nil
}

// queueHost matches the hosts that AWS gives queues, today's and the legacy one.
// Any other host (an emulator, a VPC endpoint) says nothing about the region.
var queueHost = regexp.MustCompile(`^(?:sqs\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.amazonaws\.com(?:\.cn)?$`)

func (r *Route) parseQueue() error {
	switch {
	case strings.HasPrefix(r.Name, "arn:"):
		return fmt.Errorf("%s: an ARN: give the queue's name or URL", r)
	case !strings.Contains(r.Name, "://"):
		if !queueName.MatchString(r.Name) {
			return fmt.Errorf("%s: neither a queue's name nor a URL", r)
		}
		return nil
	}
	u, err := url.Parse(r.Name)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return fmt.Errorf("%s: not the URL of a queue", r)
	}
	r.Address = r.Name
	if m := queueHost.FindStringSubmatch(u.Hostname()); m != nil {
		r.Region = m[1] + m[2]
	}
	return nil
}
