package publish

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// maximumMessageSize is the attribute that holds a destination's size limit, of
// topics and queues alike.
const maximumMessageSize = "MaximumMessageSize"

// topicArn is the attribute of a topic that repeats its ARN.
const topicArn = "TopicArn"

// lookUp asks AWS for what r lacks, and for its limit.
func (p *Publisher) lookUp(ctx context.Context, r Route) (Route, error) {
	var values map[string]string
	var err error
	switch {
	case r.Address != "":
	case r.Service == SQS:
		r.Address, err = p.queueURL(ctx, r)
	default:
		r.Address, values, err = p.topicARN(ctx, r)
	}
	if err != nil {
		return r, resolveError(r, err)
	}
	if values == nil {
		attributes := p.topicAttributes
		if r.Service == SQS {
			attributes = p.queueAttributes
		}
		if values, err = attributes(ctx, r); err != nil {
			if pe := publishError(err); errorcode.Lookup(pe.Code).Cause != errorcode.CauseForbidden {
				return r, resolveError(r, pe)
			}
			// Reading attributes is a permission of its own, and publishing does
			// not need it.
			return r, nil
		}
	}
	if limit, err := strconv.Atoi(values[maximumMessageSize]); err == nil && limit > 0 {
		r.Limit, r.Guessed = limit, false
	}
	return r, nil
}

func (p *Publisher) topicAttributes(ctx context.Context, r Route) (map[string]string, error) {
	out, err := p.clients.sns(r.Region).GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &r.Address})
	if err != nil {
		return nil, err
	}
	return out.Attributes, nil
}

func (p *Publisher) queueAttributes(ctx context.Context, r Route) (map[string]string, error) {
	out, err := p.clients.sqs(r.Region).GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       &r.Address,
		AttributeNames: []types.QueueAttributeName{maximumMessageSize},
	})
	if err != nil {
		return nil, err
	}
	return out.Attributes, nil
}

func (p *Publisher) queueURL(ctx context.Context, r Route) (string, error) {
	out, err := p.clients.sqs(r.Region).GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &r.Name})
	if err != nil {
		return "", err
	}
	if out.QueueUrl == nil {
		return "", errorcode.New(relay.CodeResponse, "the response to GetQueueUrl has no URL")
	}
	return *out.QueueUrl, nil
}

// topicARN finds a topic by name, and returns its attributes too where it has read
// them. The first page of the listing tells whose topics are listed, and so the ARN
// that the name would have; asking for its attributes answers at once, however many
// topics there are. Where these may not be read, the listing goes on.
func (p *Publisher) topicARN(ctx context.Context, r Route) (string, map[string]string, error) {
	if err := p.topics.first(ctx); err != nil {
		return "", nil, err
	}
	if owner, known := p.topics.owner(); known {
		r.Address = owner + r.Name
		values, err := p.topicAttributes(ctx, r)
		switch {
		case err == nil && values[topicArn] == r.Address:
			return r.Address, values, nil
		case err != nil && errorcode.Lookup(publishError(err).Code).Cause == errorcode.CauseMissing:
			return "", nil, errorcode.New(relay.CodeNoTopic, "there is no topic "+r.Address)
		case err != nil && errorcode.Lookup(publishError(err).Code).Cause != errorcode.CauseForbidden:
			return "", nil, err
		}
	}
	arn, err := p.topics.find(ctx, r.Name, r.Region)
	return arn, nil, err
}

func (p *Publisher) listTopics(ctx context.Context, token *string) (*sns.ListTopicsOutput, error) {
	return p.clients.sns(p.cfg.AWS.Region).ListTopics(ctx, &sns.ListTopicsInput{NextToken: token})
}

// resolveError adds what people need to a failed look-up: the topic, the
// destination, and what to do.
func resolveError(r Route, err error) error {
	pe := *publishError(err)
	if pe.Class == relay.ClassPoison {
		// No event was part of this, so it is the address that is not allowed.
		pe.Class, pe.Doubtful = relay.ClassDestination, false
	}
	pe.Message = errorcode.Shorten(fmt.Sprintf("%s; %s", strings.TrimRight(pe.Message, "."), remedy(r, pe.Code)))
	return fmt.Errorf("resolve topic %s, %s: %w", r.Topic, r, &pe)
}

// remedy says what to do about a code met while resolving.
func remedy(r Route, code string) string {
	switch errorcode.Lookup(code).Cause {
	case errorcode.CauseMissing:
		return fmt.Sprintf("create it in %s, or correct its name, AWS_REGION or the account", r.Region)
	case errorcode.CauseForbidden:
		if r.Service == SNS {
			return "allow the worker sns:ListTopics, or give the topic's ARN instead of its name"
		}
		return "allow the worker sqs:GetQueueUrl, or give the queue's URL instead of its name"
	case errorcode.CauseNetwork:
		return "check the network, AWS_REGION and AWS_ENDPOINT_URL"
	case errorcode.CauseListing:
		return "the next attempt reads on; give the topic's ARN instead of its name, and nothing has to be listed"
	case errorcode.CauseCredentials:
		return "check that the worker has AWS credentials, that they are valid, and its clock"
	case errorcode.CauseKey:
		return "check the key that encrypts it, and the worker's rights on that"
	}
	return "see AWS's documentation of this code"
}
