// Package sqs publishes to queues of Amazon SQS.
package sqs

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// defaultLimit is what SQS accepts, in bytes, for a message and for a batch, unless the
// queue's attribute MaximumMessageSize says otherwise.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
const defaultLimit = 1 << 20

// queueName is a name as AWS's documentation of CreateQueue restricts it; the ".fifo" counts
// towards the length.
var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$|^[A-Za-z0-9_-]{1,75}\.fifo$`)

// queueHost matches the hosts that AWS gives queues, today's and the legacy one.
// Any other host (an emulator, a VPC endpoint) says nothing about the region.
var queueHost = regexp.MustCompile(`^(?:sqs\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.amazonaws\.com(?:\.cn)?$`)

// Parse completes a route whose Name is a queue's name or URL, as far as that goes without
// asking AWS.
func Parse(r destination.Route) (destination.Route, error) {
	r.Service, r.Limit, r.Ordered = destination.SQS, defaultLimit, awsapi.IsFIFO(r.Name)
	switch {
	case strings.HasPrefix(r.Name, "arn:"):
		return r, fmt.Errorf("%s: an ARN: give the queue's name or URL", r)
	case !strings.Contains(r.Name, "://"):
		if !queueName.MatchString(r.Name) {
			return r, fmt.Errorf("%s: neither a queue's name nor a URL", r)
		}
		return r, nil
	}
	u, err := url.Parse(r.Name)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return r, fmt.Errorf("%s: not the URL of a queue", r)
	}
	r.Address = r.Name
	if m := queueHost.FindStringSubmatch(u.Hostname()); m != nil {
		r.Region = m[1] + m[2]
	}
	return r, nil
}

// Driver is the destination.Driver of SQS queues.
type Driver struct{ cfg aws.Config }

// New returns a driver. The configuration is one of awsapi.Config.
func New(cfg aws.Config) *Driver { return &Driver{cfg} }

func (d *Driver) client(region string) *sqs.Client {
	return sqs.NewFromConfig(d.cfg, func(o *sqs.Options) {
		o.Region = region
		// The check runs after the queue has accepted the batch and outside the
		// retry loop: it could only turn an acknowledgement into an error. TLS
		// already guards the bytes.
		o.DisableMessageChecksumValidation = true
		o.APIOptions = append(slices.Clone(o.APIOptions), awsapi.EncodesBatches(contentType))
	})
}

// LookUp finds a queue's URL by its name, and its limit.
func (d *Driver) LookUp(ctx context.Context, r destination.Route) (destination.Route, error) {
	const ifForbidden = "allow the worker sqs:GetQueueUrl, or give the queue's URL instead of its name"
	var err error
	if r.Address == "" {
		if r.Address, err = d.url(ctx, r); err != nil {
			return r, awsapi.LookUpError(r, err, ifForbidden)
		}
	}
	out, err := d.client(r.Region).GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       &r.Address,
		AttributeNames: []types.QueueAttributeName{awsapi.MaximumMessageSize},
	})
	switch {
	case awsapi.IsForbidden(err):
		// Reading attributes is a permission of its own, and publishing does
		// not need it.
		return r, nil
	case err != nil:
		return r, awsapi.LookUpError(r, err, ifForbidden)
	}
	return awsapi.WithLimit(r, out.Attributes), nil
}

func (d *Driver) url(ctx context.Context, r destination.Route) (string, error) {
	out, err := d.client(r.Region).GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &r.Name})
	if err != nil {
		return "", err
	}
	if out.QueueUrl == nil {
		return "", errorcode.New(relay.CodeResponse, "the response to GetQueueUrl has no URL")
	}
	return *out.QueueUrl, nil
}

// Mode is how many requests SQS accepts for a FIFO queue.
type Mode string

// The modes of a FIFO queue.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/high-throughput-fifo.html
const (
	HighThroughput Mode = "high throughput"
	// PerQueue is the mode without high throughput: 300 requests a second for the whole queue.
	PerQueue Mode = "300 requests a second"
)

// Mode asks in which mode the FIFO queue of a looked-up route is. It is empty if the queue does
// not tell. The error wraps destination.ErrUntold.
func (d *Driver) Mode(ctx context.Context, r destination.Route) (Mode, error) {
	out, err := d.client(r.Region).GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       &r.Address,
		AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameFifoThroughputLimit, types.QueueAttributeNameDeduplicationScope},
	})
	if err != nil {
		return "", fmt.Errorf("%w: whether the queue has high throughput: %w", destination.ErrUntold, awsapi.Error(err))
	}
	scope, limit := out.Attributes["DeduplicationScope"], out.Attributes["FifoThroughputLimit"]
	switch {
	case limit == "":
		return "", nil
	case scope == "messageGroup" && limit == "perMessageGroupId":
		return HighThroughput, nil
	}
	return PerQueue, nil
}

// MayPublish sends a batch without entries, which SQS rejects: there is no dry run.
func (d *Driver) MayPublish(ctx context.Context, r destination.Route) error {
	_, err := d.client(r.Region).SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
		QueueUrl: &r.Address, Entries: []types.SendMessageBatchRequestEntry{},
	})
	return awsapi.MayPublishError(r, err)
}

// Open returns the queue of a looked-up route.
func (d *Driver) Open(r destination.Route) destination.Destination {
	return &queue{client: d.client(r.Region), route: r}
}
