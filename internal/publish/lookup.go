package publish

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/internal/relay"
)

// maximumMessageSize is the attribute that holds a destination's size limit, of
// topics and queues alike.
const maximumMessageSize = "MaximumMessageSize"

// lookUp asks AWS for what r lacks, and for its limit.
func (p *Publisher) lookUp(ctx context.Context, r Route) (Route, error) {
	address, attributes := p.topicARN, p.topicAttributes
	if r.Service == SQS {
		address, attributes = p.queueURL, p.queueAttributes
	}
	if r.Address == "" {
		var err error
		if r.Address, err = address(ctx, r); err != nil {
			return r, resolveError(r, err)
		}
	}
	values, err := attributes(ctx, r)
	if err != nil {
		if pe := publishError(err); lookUpCode(pe.Code).cause != causeForbidden {
			return r, resolveError(r, pe)
		}
		// Reading attributes is a permission of its own, and publishing does
		// not need it.
		return r, nil
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
		return "", refusal(relay.CodeResponse, "the response to GetQueueUrl has no URL")
	}
	return *out.QueueUrl, nil
}

// arnCache remembers ARNs by topic name, because the API only lists them, a
// hundred at a time: one listing serves all configured topics.
type arnCache struct {
	turn chan struct{} // held by whoever lists or looks
	arns map[string]string
}

// topicARN finds a topic by name. There is no such call; CreateTopic would answer
// it and is deliberately not used: it creates what is misspelt.
func (p *Publisher) topicARN(ctx context.Context, r Route) (string, error) {
	select {
	case p.arns.turn <- struct{}{}:
		defer func() { <-p.arns.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if arn := p.arns.arns[r.Name]; arn != "" {
		return arn, nil
	}
	found := make(map[string]string)
	pages := sns.NewListTopicsPaginator(p.clients.sns(r.Region), &sns.ListTopicsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, t := range page.Topics {
			if t.TopicArn != nil {
				found[(*t.TopicArn)[strings.LastIndexByte(*t.TopicArn, ':')+1:]] = *t.TopicArn
			}
		}
	}
	p.arns.arns = found
	if found[r.Name] == "" {
		return "", refusal(relay.CodeNoTopic, fmt.Sprintf("region %s has no topic of that name", r.Region))
	}
	return found[r.Name], nil
}

// resolveError adds what people need to a failed look-up: the topic, the
// destination, and what to do.
func resolveError(r Route, err error) error {
	pe := *publishError(err)
	if pe.Class == relay.ClassPoison {
		// No event was part of this, so it is the address that is not allowed.
		pe.Class, pe.Doubtful = relay.ClassDestination, false
	}
	pe.Message = shorten(fmt.Sprintf("%s; %s", strings.TrimRight(pe.Message, "."), remedy(r, pe.Code)))
	return fmt.Errorf("resolve topic %s, %s: %w", r.Topic, r, &pe)
}

// remedy says what to do about a code met while resolving.
func remedy(r Route, code string) string {
	switch lookUpCode(code).cause {
	case causeMissing:
		return fmt.Sprintf("create it in %s, or correct its name, AWS_REGION or the account", r.Region)
	case causeForbidden:
		if r.Service == SNS {
			return "allow the worker sns:ListTopics, or give the topic's ARN instead of its name"
		}
		return "allow the worker sqs:GetQueueUrl, or give the queue's URL instead of its name"
	case causeNetwork:
		return "check the network, AWS_REGION and AWS_ENDPOINT_URL"
	case causeCredentials:
		return "check that the worker has AWS credentials, that they are valid, and its clock"
	case causeKey:
		return "check the key that encrypts it, and the worker's rights on that"
	}
	return "see AWS's documentation of this code"
}
