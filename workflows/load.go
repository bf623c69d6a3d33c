package workflows

import "go.temporal.io/sdk/workflow"

// loads is how much each topic may have under way. It falls when its destination
// asks for less or breaks, and comes back step by step as batches get through:
// multiplicative decrease, additive increase. The run is the one place that sees
// all batches of a topic, whichever worker has them.
type loads struct {
	share int // claims that a topic may have
	most  int // requests that a batch may have under way
	topic map[string]*load
}

// load is that of a topic which is not at its most.
type load struct{ share, requests int }

func newLoads(in RelayInput) loads {
	return loads{share: max(1, in.Slots/topicShare), most: in.Concurrency, topic: map[string]*load{}}
}

// ended notes that a batch of a topic got through.
func (l loads) ended(topic string, throttled bool) {
	t := l.topic[topic]
	switch {
	case throttled && t == nil:
		l.topic[topic] = &load{share: l.share, requests: max(1, l.most/2)}
	case throttled && t.requests > 1:
		t.requests /= 2
	case throttled:
		t.share = max(1, t.share/2)
	case t == nil:
	case t.share < l.share:
		t.share++
	case t.requests < l.most:
		t.requests++
	default:
		delete(l.topic, topic)
	}
}

// failed notes that nothing of a batch got through: one at a time, until one does.
func (l loads) failed(topic string) { l.topic[topic] = &load{share: 1, requests: l.most} }

// lowered are the topics that may have fewer claims than the others.
func (l loads) lowered() map[string]int {
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

func (l loads) concurrency(topic string) int {
	if t := l.topic[topic]; t != nil {
		return t.requests
	}
	return l.most
}
