package chaos

import (
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/ondisk"
)

// observations keeps the records of producers, of consumers and of the proxy before AWS, in
// files and in parts, so that a run of a million events is checked in little memory. It is a
// check.Source.
type observations struct {
	events *ondisk.Records[entry]
	steps  *ondisk.Records[check.Step]
}

// entry is one record of an event; one of its fields is set.
type entry struct {
	Written  *check.Written  `json:"w,omitempty"`
	Received *check.Received `json:"r,omitempty"`
	Send     *check.Send     `json:"s,omitempty"`
	Of       *noted          `json:"n,omitempty"`
}

// noted is a record that the database has of an event.
type noted struct {
	ID     string
	What   what
	Number int64     `json:",omitempty"`
	At     time.Time `json:",omitzero"`
}

type what string

const (
	isKept       what = "kept"        // the database has it
	isLost       what = "lost"        // only an old primary had it
	isReplayed   what = "replayed"    // under a number, at a time
	replayIsLost what = "replay lost" // the same, and only an old primary knew of it
	isDiscarded  what = "discarded"   // under a number
)

// partEvents is about how many events a part has.
const partEvents = 20_000

func newObservations(dir string, events int) (r *observations, err error) {
	parts := max(4, events/partEvents+1)
	r = &observations{}
	if r.events, err = ondisk.New[entry](dir, "events", parts); err != nil {
		return nil, err
	}
	if r.steps, err = ondisk.New[check.Step](dir, "steps", parts); err != nil {
		r.events.Close()
		return nil, err
	}
	return r, nil
}

func (r *observations) close() {
	r.events.Close()
	r.steps.Close()
}

// Part returns the first error of these methods.

func (r *observations) written(w check.Written) { _ = r.events.Put(w.ID, entry{Written: &w}) }

func (r *observations) received(m check.Received) { _ = r.events.Put(m.EventID, entry{Received: &m}) }
func (r *observations) sent(s check.Send)         { _ = r.events.Put(s.EventID, entry{Send: &s}) }
func (r *observations) noted(n noted)             { _ = r.events.Put(n.ID, entry{Of: &n}) }

// Parts implements check.Source, as do the others.
func (r *observations) Parts() int { return r.events.Parts() }

func (r *observations) Part(n int) (check.Part, error) {
	p := check.Part{
		Replays: map[string][]check.Replay{}, LostReplays: map[string][]check.Replay{}, Discards: map[string][]int64{},
		Kept: map[string]bool{}, Lost: map[string]bool{},
	}
	err := r.events.Read(n, func(e entry) {
		switch {
		case e.Written != nil:
			p.Written = append(p.Written, *e.Written)
		case e.Received != nil:
			p.Received = append(p.Received, *e.Received)
		case e.Send != nil:
			p.Sends = append(p.Sends, *e.Send)
		case e.Of == nil:
		case e.Of.What == isKept:
			p.Kept[e.Of.ID] = true
		case e.Of.What == isLost:
			p.Lost[e.Of.ID] = true
		case e.Of.What == isReplayed:
			p.Replays[e.Of.ID] = append(p.Replays[e.Of.ID], check.Replay{Number: e.Of.Number, At: e.Of.At})
		case e.Of.What == replayIsLost:
			p.LostReplays[e.Of.ID] = append(p.LostReplays[e.Of.ID], check.Replay{Number: e.Of.Number, At: e.Of.At})
		case e.Of.What == isDiscarded:
			p.Discards[e.Of.ID] = append(p.Discards[e.Of.ID], e.Of.Number)
		}
	})
	return p, err
}

func (r *observations) Put(s check.Step) error { return r.steps.Put(s.Topic+"\x00"+s.Key, s) }

func (r *observations) Steps(n int) (steps []check.Step, err error) {
	err = r.steps.Read(n, func(s check.Step) { steps = append(steps, s) })
	return steps, err
}
