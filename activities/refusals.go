package activities

import (
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// refusals are the events that a destination has refused, sorted by the consequence.
type refusals struct {
	poison    []relay.Outcome     // never acceptable here
	ambiguous []relay.Outcome     // poison only if others get through, in the order of their answers
	answers   []time.Time         // to these
	alone     []relay.Outcome     // one by one, to be retried
	broken    []relay.Outcome     // one by one, with a code that asks for a repair
	others    []relay.Outcome     // together with their request
	whole     *relay.PublishError // first that is not about an event
	throttle  *relay.PublishError // first that asked for fewer requests
}

// add adds a refusal that was answered at the given time.
func (r *refusals) add(o relay.Outcome, at time.Time) {
	if o.Err.Throttled && r.throttle == nil {
		r.throttle = o.Err
	}
	switch {
	case o.Err.Whole, o.Err.Throttled:
		r.others = append(r.others, o)
		r.stop(o.Err)
	case needsRepair(o.Err):
		r.broken = append(r.broken, o)
	case o.Err.Class == relay.ClassPoison && o.Err.Ambiguous:
		r.ambiguous = append(r.ambiguous, o)
		r.answers = append(r.answers, at)
	case o.Err.Class == relay.ClassPoison:
		r.poison = append(r.poison, o)
	default:
		r.alone = append(r.alone, o)
	}
}

// addBeside adds a refusal of an event in whose request another one was accepted. So an ambiguous code is
// about the event.
func (r *refusals) addBeside(o relay.Outcome, at time.Time) {
	if o.Err.Class == relay.ClassPoison && o.Err.Ambiguous {
		r.poison = append(r.poison, o)
		return
	}
	r.add(o, at)
}

// stop notes a refusal that is not about a single event.
func (r *refusals) stop(err *relay.PublishError) {
	if r.whole == nil || needsRepair(err) && !needsRepair(r.whole) {
		r.whole = err
	}
}

func (r *refusals) any() bool {
	return r.whole != nil || len(r.poison)+len(r.ambiguous)+len(r.alone)+len(r.broken) > 0
}

func (r *refusals) all() (all []relay.Outcome) {
	for _, some := range [][]relay.Outcome{r.poison, r.ambiguous, r.alone, r.broken, r.others} {
		all = append(all, some...)
	}
	return all
}

// endsSending reports whether the destination would refuse other events now, too.
func endsSending(err *relay.PublishError) bool {
	return err.Whole || err.Throttled || needsRepair(err)
}

// needsRepair reports whether a retry alone will not help.
func needsRepair(err *relay.PublishError) bool {
	return err.Class == relay.ClassDestination || err.Class == relay.ClassOurs
}
