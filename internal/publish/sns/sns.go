// Package sns publishes to topics of Amazon SNS.
package sns

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// defaultLimit is what SNS accepts, in bytes, unless the topic's attribute MaximumMessageSize
// says otherwise (up to 1 MiB).
// https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html
const defaultLimit = 256 << 10

// topicName is a name as AWS's documentation of CreateTopic restricts it; the ".fifo" counts
// towards the length.
var topicName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}$|^[A-Za-z0-9_-]{1,251}\.fifo$`)

// Parse completes a route whose Name is a topic's name or ARN, as far as that goes without
// asking AWS.
func Parse(r destination.Route) (destination.Route, error) {
	r.Service, r.Limit, r.Ordered = destination.SNS, defaultLimit, awsapi.IsFIFO(r.Name)
	if !strings.HasPrefix(r.Name, "arn:") {
		if !topicName.MatchString(r.Name) {
			return r, fmt.Errorf("%s: neither a topic's name nor an ARN", r)
		}
		return r, nil
	}
	// arn:partition:sns:region:account:name
	part := strings.Split(r.Name, ":")
	if len(part) != 6 || part[2] != "sns" || part[3] == "" || part[4] == "" || !topicName.MatchString(part[5]) {
		return r, fmt.Errorf("%s: not the ARN of a topic, which reads arn:aws:sns:REGION:ACCOUNT:NAME", r)
	}
	r.Address, r.Region = r.Name, part[3]
	return r, nil
}

// Driver is the destination.Driver of SNS topics.
type Driver struct {
	cfg    aws.Config
	topics *listing
}

// New returns a driver. The configuration is one of awsapi.Config. The timeout bounds one
// page of the account's topics.
func New(cfg aws.Config, timeout time.Duration) *Driver {
	d := &Driver{cfg: cfg}
	d.topics = &listing{read: d.listTopics, timeout: timeout, now: time.Now}
	return d
}

func (d *Driver) client(region string) *sns.Client {
	return sns.NewFromConfig(d.cfg, func(o *sns.Options) {
		o.Region = region
		o.APIOptions = append(slices.Clone(o.APIOptions), awsapi.EncodesBatches(contentType))
	})
}

// LookUp finds a topic's ARN by its name, and its limit.
func (d *Driver) LookUp(ctx context.Context, r destination.Route) (destination.Route, error) {
	const ifForbidden = "allow the worker sns:ListTopics, or give the topic's ARN instead of its name"
	var attributes map[string]string
	var err error
	if r.Address == "" {
		if r.Address, attributes, err = d.findTopic(ctx, r); err != nil {
			return r, awsapi.LookUpError(r, err, ifForbidden)
		}
	}
	if attributes == nil {
		attributes, err = d.attributes(ctx, r)
		switch {
		case awsapi.IsForbidden(err):
			// Reading attributes is a permission of its own, and publishing does
			// not need it.
			return r, nil
		case err != nil:
			return r, awsapi.LookUpError(r, err, ifForbidden)
		}
	}
	return awsapi.WithLimit(r, attributes), nil
}

// findTopic finds a topic by name, and returns its attributes too where it has read
// them. The first page of the listing tells whose topics are listed, and so the ARN
// that the name would have; asking for its attributes answers at once, however many
// topics there are. Where these may not be read, the listing goes on.
func (d *Driver) findTopic(ctx context.Context, r destination.Route) (arn string, attributes map[string]string, err error) {
	if err := d.topics.first(ctx); err != nil {
		return "", nil, err
	}
	if owner, known := d.topics.owner(); known {
		r.Address = owner + r.Name
		attributes, err := d.attributes(ctx, r)
		switch {
		case err == nil && attributes[topicArn] == r.Address:
			return r.Address, attributes, nil
		case awsapi.IsMissing(err):
			return "", nil, errorcode.New(relay.CodeNoTopic, "there is no topic "+r.Address)
		case err != nil && !awsapi.IsForbidden(err):
			return "", nil, err
		}
	}
	arn, err = d.topics.find(ctx, r.Name, r.Region)
	return arn, nil, err
}

// topicArn is the attribute of a topic that repeats its ARN.
const topicArn = "TopicArn"

func (d *Driver) attributes(ctx context.Context, r destination.Route) (map[string]string, error) {
	out, err := d.client(r.Region).GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &r.Address})
	if err != nil {
		return nil, err
	}
	return out.Attributes, nil
}

func (d *Driver) listTopics(ctx context.Context, token *string) (*sns.ListTopicsOutput, error) {
	return d.client(d.cfg.Region).ListTopics(ctx, &sns.ListTopicsInput{NextToken: token})
}

// MayPublish sends a batch without entries, which SNS rejects: there is no dry run.
func (d *Driver) MayPublish(ctx context.Context, r destination.Route) error {
	_, err := d.client(r.Region).PublishBatch(ctx, &sns.PublishBatchInput{
		TopicArn: &r.Address, PublishBatchRequestEntries: []types.PublishBatchRequestEntry{},
	})
	return awsapi.MayPublishError(r, err)
}

// Open returns the topic of a looked-up route.
func (d *Driver) Open(r destination.Route) destination.Destination {
	return &topic{client: d.client(r.Region), route: r}
}
