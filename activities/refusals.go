package activities

import (
	"sync"

	"github.com/temporal-outbox/relay/internal/relay"
)

// refusals is what an attempt's destination said no to, by what is to be done
// about it.
type refusals struct {
	poison   []relay.Outcome     // never acceptable here
	doubtful []relay.Outcome     // the same, if others get through
	alone    []relay.Outcome     // one by one, to be retried
	others   []relay.Outcome     // not for their own sake
	whole    *relay.PublishError // first that is not about an event
	throttle *relay.PublishError // first that asked for less
}

func (r *refusals) add(o relay.Outcome) {
	if o.Err.Throttled && r.throttle == nil {
		r.throttle = o.Err
	}
	switch {
	case endsSending(o.Err):
		r.others = append(r.others, o)
		if r.whole == nil || worse(o.Err, r.whole) {
			r.whole = o.Err
		}
	case o.Err.Class == relay.ClassPoison && o.Err.Doubtful:
		r.doubtful = append(r.doubtful, o)
	case o.Err.Class == relay.ClassPoison:
		r.poison = append(r.poison, o)
	default:
		r.alone = append(r.alone, o)
	}
}

func (r *refusals) any() bool {
	return r.whole != nil || len(r.poison)+len(r.doubtful)+len(r.alone) > 0
}

// endsSending reports whether a refusal says that other events would fare no
// better now.
func endsSending(err *relay.PublishError) bool {
	return err.Whole || err.Throttled || needsSomebody(err)
}

// needsSomebody reports whether retrying alone will not help.
func needsSomebody(err *relay.PublishError) bool {
	return err.Class == relay.ClassDestination || err.Class == relay.ClassOurs
}

func worse(a, b *relay.PublishError) bool { return needsSomebody(a) && !needsSomebody(b) }

// doubtLimit is how many doubtful poison verdicts a worker believes for a topic
// before anything is accepted again.
const doubtLimit = 2

// doubts counts, for each topic, doubtful verdicts that were believed since
// something was accepted last. The codes that AWS has for a bad event it also has
// for a destination that is not what it is taken for; then every event looks like
// poison, and a trickle of them would go to the dead letters one by one.
type doubts struct {
	mu       sync.Mutex
	believed map[string]int
}

// believe reports whether n doubtful verdicts are about the events.
func (d *doubts) believe(topic string, n, accepted int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if accepted > 0 {
		delete(d.believed, topic)
		return true
	}
	if n == 0 {
		return true
	}
	if d.believed[topic]+n > doubtLimit {
		return false
	}
	if d.believed == nil {
		d.believed = make(map[string]int)
	}
	d.believed[topic] += n
	return true
}
