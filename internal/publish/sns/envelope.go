package sns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
)

const (
	// subscriptionsMost is how many subscriptions of a topic are looked at.
	subscriptionsMost = 200
	// subscriptionsAtOnce is how many of them are asked for at the same time.
	subscriptionsAtOnce = 8
)

// rawProtocols are those of subscriptions that can have raw message delivery.
// https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html
var rawProtocols = []string{"sqs", "http", "https", "firehose"}

// Enveloped lists the subscriptions of a topic that get an envelope of SNS with the payload
// inside, because raw message delivery is off, as it is by default. It looks at the first 200,
// and passes over those that are not confirmed.
//
// The error wraps destination.ErrUntold and says what could not be found out, and which
// permission is missing; what was found is returned with it. Neither permission is needed to
// publish.
func (d *Driver) Enveloped(ctx context.Context, r destination.Route) ([]string, error) {
	client := d.client(r.Region)
	all, listing := subscriptions(ctx, client, r.Address)
	found := make([]string, len(all))
	failed := make([]error, len(all))
	places := make(chan struct{}, subscriptionsAtOnce)
	var asking sync.WaitGroup
	for i, s := range all {
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			var raw bool
			if raw, failed[i] = deliversRaw(ctx, client, s); failed[i] == nil && !raw {
				found[i] = fmt.Sprintf("%s (%s %s)", aws.ToString(s.SubscriptionArn), aws.ToString(s.Protocol), destination.WithoutSecrets(aws.ToString(s.Endpoint)))
			}
		})
	}
	asking.Wait()
	found = slices.DeleteFunc(found, func(s string) bool { return s == "" })
	problems := []error{untold("the subscriptions of "+r.Address, "sns:ListSubscriptionsByTopic", listing)}
	if failed = slices.DeleteFunc(failed, func(err error) bool { return err == nil }); len(failed) > 0 {
		of := fmt.Sprintf("%d of %d subscriptions of %s", len(failed), len(all), r.Address)
		problems = append(problems, untold(of, "sns:GetSubscriptionAttributes", failed[0]))
	}
	return found, errors.Join(problems...)
}

// subscriptions lists those that may have raw message delivery, also with an error.
func subscriptions(ctx context.Context, client *sns.Client, arn string) (all []types.Subscription, err error) {
	pages := sns.NewListSubscriptionsByTopicPaginator(client, &sns.ListSubscriptionsByTopicInput{TopicArn: &arn})
	for pages.HasMorePages() && len(all) < subscriptionsMost {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return all, err
		}
		for _, s := range page.Subscriptions {
			// One that is not confirmed has the words PendingConfirmation for its ARN.
			confirmed := strings.HasPrefix(aws.ToString(s.SubscriptionArn), "arn:")
			if confirmed && slices.Contains(rawProtocols, aws.ToString(s.Protocol)) {
				all = append(all, s)
			}
		}
	}
	return all[:min(len(all), subscriptionsMost)], nil
}

func deliversRaw(ctx context.Context, client *sns.Client, s types.Subscription) (bool, error) {
	out, err := client.GetSubscriptionAttributes(ctx, &sns.GetSubscriptionAttributesInput{SubscriptionArn: s.SubscriptionArn})
	if err != nil {
		return false, err
	}
	return out.Attributes["RawMessageDelivery"] == "true", nil
}

// untold says what could not be found out. It returns nil without an error.
func untold(of, permission string, err error) error {
	if err == nil {
		return nil
	}
	if awsapi.IsForbidden(err) {
		return fmt.Errorf("%w whether SNS puts an envelope around the payload for %s: allow the worker %s, so that it can find out", destination.ErrUntold, of, permission)
	}
	return fmt.Errorf("%w whether SNS puts an envelope around the payload for %s: %w", destination.ErrUntold, of, awsapi.Error(err))
}
