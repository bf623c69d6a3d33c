package publish

import (
	"fmt"
	"slices"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// failed takes a request that failed as a whole, and returns the outcome of its events: nil
// if they have none, because they are sent again.
//
// That is so where one event may be the reason. The halves of the request are sent again, so that
// with every rejection fewer events stand beside the guilty one. They may be in flight at once:
// no two of them have a key in common that is kept in order, because a request with several events of
// a key is first divided into single ones.
func (o *outlet) failed(entries []*entry, failure *relay.PublishError) *relay.PublishError {
	meaning := errorcode.Lookup(failure.Code)
	if meaning.Size && len(entries) > 1 {
		o.size.rejected(weight(entries))
	}
	divides := mayBeOneEvent(failure, meaning) || o.isolate && isAnswer(failure)
	switch n := len(entries); {
	case !divides:
		return failure
	case n > 1:
		if entries = o.queue.single(entries); len(entries) == 1 {
			o.halves = append(o.halves, entries)
			return nil
		}
		n = len(entries)
		// Clones, because the request uses its slice again.
		o.halves = append(o.halves, slices.Clone(entries[n/2:]), slices.Clone(entries[:n/2]))
		return nil
	}
	own := *failure
	own.Whole = false
	if meaning.Size {
		tooLarge(&own, entries[0].bytes, o.props.MaxBytes)
	}
	return &own
}

// mayBeOneEvent reports whether one event may be the reason for a failure: the code says so, or
// it is in no table and blames the sender.
func mayBeOneEvent(failure *relay.PublishError, meaning *errorcode.Meaning) bool {
	return meaning.Divides || !meaning.Known() && failure.SenderFault && !failure.Throttled
}

// isAnswer reports whether a failure is something that the destination said
// of the events. A request that hangs would hang in parts as well.
func isAnswer(failure *relay.PublishError) bool {
	switch failure.Code {
	case relay.CodeTimeout, relay.CodeConnection, relay.CodeNotSent:
		return false
	}
	return !failure.Throttled
}

// tooLarge makes pe the error of an event that the destination finds too large
// even alone.
func tooLarge(pe *relay.PublishError, bytes, limit int) {
	pe.Message = errorcode.Shorten(fmt.Sprintf("the event has %d bytes with its attributes, and the destination, which accepts %d as far as is known, refused it: %s",
		bytes, limit, pe.Error()))
	pe.Code = relay.CodeTooLarge
	errorcode.Classify(pe)
	// A destination that finds even this event too large may find all too large.
	pe.Ambiguous = bytes <= limit
}

// weight is the size of a request with these entries, as the destination counts it.
func weight(entries []*entry) int {
	bytes := 0
	for _, e := range entries {
		bytes += e.bytes
	}
	return bytes
}
