package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ErrUntold says that a destination has not told whether it may be published to.
var ErrUntold = errors.New("not known")

// MayPublish asks a topic's destination whether it may be published to, and
// publishes nothing: there is no dry run, so it sends a batch without entries, which
// both services refuse.
//
// It returns nil only if the batch was accepted all the same, as by some emulators.
// A refusal for want of permission, or one that concerns the destination in another
// way, is a *relay.PublishError and is certain. Any other refusal wraps ErrUntold:
// AWS does not document that permission is looked at before the batch is. Neither
// tells of the key of an encrypted destination, which is only used for a message.
func (p *Publisher) MayPublish(ctx context.Context, topic string) error {
	r, err := p.Resolve(ctx, topic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.RequestTimeout)
	defer cancel()
	if r.Service == SNS {
		_, err = p.clients.sns(r.Region).PublishBatch(ctx, &sns.PublishBatchInput{
			TopicArn: &r.Address, PublishBatchRequestEntries: []snstypes.PublishBatchRequestEntry{},
		})
	} else {
		_, err = p.clients.sqs(r.Region).SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
			QueueUrl: &r.Address, Entries: []sqstypes.SendMessageBatchRequestEntry{},
		})
	}
	if err == nil {
		return nil
	}
	pe := publishError(err)
	switch pe.Class {
	case relay.ClassDestination:
		return fmt.Errorf("publish to %s: %w", r, pe)
	case relay.ClassOurs, relay.ClassPoison:
		return fmt.Errorf("%w: AWS does not say whether it looks at permission before it refuses an empty batch, as it did with %s", ErrUntold, pe.Code)
	default:
		return fmt.Errorf("%w: %s was asked and did not answer: %w", ErrUntold, r, pe)
	}
}
