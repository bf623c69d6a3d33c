package activities

import (
	"maps"
	"time"

	"golang.org/x/time/rate"
)

// OnPoison says what becomes of later events of a key, when one of its events can
// never be accepted.
type OnPoison string

const (
	// Continue publishes them. The default.
	Continue OnPoison = "continue"
	// BlockKey lets them follow into the dead letters, so that a redrive keeps their
	// order. For ordered destinations only.
	BlockKey OnPoison = "block"
)

// DefaultGiveUpAfter is how long an event is retried that is refused alone, by a
// destination that others get through to.
const DefaultGiveUpAfter = time.Hour

// TopicPolicy is how a topic is treated. The zero value is the default.
type TopicPolicy struct {
	OnPoison OnPoison
	// GiveUpAfter is how long an event is retried that its destination refuses alone
	// while others get through. Then it becomes a dead letter. Default
	// DefaultGiveUpAfter.
	GiveUpAfter time.Duration
	// MaxPerSecond caps the topic's messages, over all workers: such a topic is
	// published by one batch at a time. A request of up to ten messages goes out at
	// once. Default: no cap.
	MaxPerSecond float64
	// Receipts is how long it is kept when each of the topic's events was published, and
	// under which message id. Default: it is not.
	Receipts time.Duration
}

// policy returns a topic's policy with its defaults.
func (c Config) policy(topic string) TopicPolicy {
	p := c.Topics[topic]
	if p.GiveUpAfter == 0 {
		p.GiveUpAfter = DefaultGiveUpAfter
	}
	return p
}

// maxMessage is the most that SNS or SQS can be made to accept, in bytes.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
const maxMessage = 1 << 20

// burst is how many messages of a capped topic go out at once: one request.
const burst = 10

func newPaces(topics map[string]TopicPolicy) map[string]*rate.Limiter {
	paces := make(map[string]*rate.Limiter)
	for topic, p := range topics {
		if p.MaxPerSecond > 0 {
			paces[topic] = rate.NewLimiter(rate.Limit(p.MaxPerSecond), burst)
		}
	}
	return paces
}

// pace returns what tells a publisher how long to wait with so many messages, nil
// where nothing does.
func (a *Activities) pace(topic string) func(n int) time.Duration {
	limiter := a.paces[topic]
	if limiter == nil {
		return nil
	}
	return func(n int) time.Duration {
		r := limiter.ReserveN(time.Now(), min(n, burst))
		wait := r.Delay()
		if wait > 0 {
			r.Cancel() // it asks again, or is stopped
		}
		return wait
	}
}

// shares adds the topics that have one claim at a time because they are capped, and
// those that have none because something of them has to be settled first.
func (a *Activities) shares(lowered map[string]int) map[string]int {
	unsettled := a.ledger.waiting()
	if len(a.paces)+len(unsettled) == 0 {
		return lowered
	}
	shares := make(map[string]int, len(lowered)+len(a.paces)+len(unsettled))
	maps.Copy(shares, lowered)
	for topic := range a.paces {
		shares[topic] = 1
	}
	for _, topic := range unsettled {
		shares[topic] = 0
	}
	return shares
}
