package workflows

import "go.temporal.io/sdk/workflow"

// topicLimits limits the batches and requests that each topic may have in flight. A limit falls when
// the destination throttles or breaks, and rises step by step as the destination accepts batches:
// multiplicative decrease, additive increase. Only the run sees all batches of a topic, because
// several workers may have them.
type topicLimits struct {
	share       int // claims that a topic may have
	maxRequests int // requests that a batch may have under way, if they have a maximum
	topic       map[string]*topicLimit
}

// topicLimit is the limit of a topic that is below the maximum.
type topicLimit struct{ share, requests int }

func newLimits(in RelayInput) topicLimits {
	return topicLimits{share: max(1, in.Slots/topicShare), maxRequests: in.concurrency(), topic: map[string]*topicLimit{}}
}

// succeeded records that the destination accepted a batch of a topic.
func (l topicLimits) succeeded(topic string, throttled bool) {
	t := l.topic[topic]
	switch {
	case throttled && t == nil:
		l.topic[topic] = &topicLimit{share: l.share, requests: max(1, l.maxRequests/2)}
	case throttled && t.requests > 1:
		t.requests /= 2
	case throttled:
		t.share = max(1, t.share/2)
	case t == nil:
	case t.share < l.share:
		t.share++
	case t.requests < l.maxRequests:
		t.requests++
	default:
		delete(l.topic, topic)
	}
}

// failed records that the destination accepted no event of a batch. The topic then has one batch
// at a time, until the destination accepts one.
func (l topicLimits) failed(topic string) {
	l.topic[topic] = &topicLimit{share: 1, requests: l.maxRequests}
}

// lowered returns the topics that may have fewer claims than the others.
func (l topicLimits) lowered() map[string]int {
	var lowered map[string]int
	for _, topic := range workflow.DeterministicKeys(l.topic) {
		if share := l.topic[topic].share; share < l.share {
			if lowered == nil {
				lowered = map[string]int{}
			}
			lowered[topic] = share
		}
	}
	return lowered
}

func (l topicLimits) concurrency(topic string) int {
	if t := l.topic[topic]; t != nil {
		return t.requests
	}
	return l.maxRequests
}
