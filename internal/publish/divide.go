package publish

import (
	"fmt"
	"slices"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// refused settles a request that was refused, or not answered, as a whole. Where
// one event may be the reason, as for a code that nobody knows and that blames the
// sender, its halves are sent again, so that with every
// refusal fewer events stand beside the guilty one. They may be in flight at once:
// no two of them have a key in common that is kept in order.
func (s *stream) refused(entries []*entry, whole *relay.PublishError) {
	meaning := errorcode.Lookup(whole.Code)
	ofSender := !meaning.Known() && whole.SenderFault && !whole.Throttled
	if meaning.Size && len(entries) > 1 {
		s.learn(weight(entries))
	}
	divides := meaning.Divides || ofSender || s.Isolate && isAnswer(whole)
	if !divides {
		s.note(entries, func(int) (string, *relay.PublishError) { return "", whole })
		return
	}
	if n := len(entries); n > 1 {
		// Clones, because the slot uses its slice again.
		s.parts = append(s.parts, slices.Clone(entries[n/2:]), slices.Clone(entries[:n/2]))
		return
	}
	own := *whole
	own.Whole = false
	if meaning.Size {
		tooLarge(&own, entries[0].bytes, s.is.MaxBytes)
	}
	s.note(entries, func(int) (string, *relay.PublishError) { return "", &own })
}

// isAnswer reports whether a whole refusal is something that the destination said
// of what it was sent. A request that hangs would hang in parts as well.
func isAnswer(whole *relay.PublishError) bool {
	return !whole.Throttled && whole.Code != relay.CodeTimeout && whole.Code != relay.CodeConnection && whole.Code != relay.CodeNotSent
}

// tooLarge makes pe the refusal of an event that the destination finds too large
// even alone.
func tooLarge(pe *relay.PublishError, bytes, limit int) {
	pe.Message = errorcode.Shorten(fmt.Sprintf("the event has %d bytes with its attributes, and the destination, which accepts %d as far as is known, refused it: %s",
		bytes, limit, pe.Error()))
	pe.Code = relay.CodeTooLarge
	errorcode.Classify(pe)
	// What finds even this one too large may find all too large.
	pe.Doubtful = bytes <= limit
}

// learn makes further requests smaller after one of so many bytes was too large:
// half of it, but not less than what was accepted. This stream keeps to it, and so
// do the next ones until the route's limit has been looked up again. It is a limit
// for requests only, so it costs no event more than going alone.
func (s *stream) learn(bytes int) {
	if s.largest >= bytes {
		s.largest = 0 // not true any more
	}
	if limit := max(bytes/2, s.largest, 1); limit < s.packer.limit {
		s.limitRequests(limit)
	}
}

// accepted notes that a request of these entries was not too large. Half of what
// was refused may have been less than necessary.
func (s *stream) accepted(entries []*entry) {
	bytes := weight(entries)
	s.largest = max(s.largest, bytes)
	if bytes > s.packer.limit && len(entries) > 1 {
		s.limitRequests(bytes)
	}
}

func (s *stream) limitRequests(bytes int) {
	s.packer.limit = bytes
	s.learned.Store(int64(bytes))
}

// weight is the size of a request with these entries, as AWS counts it.
func weight(entries []*entry) int {
	bytes := 0
	for _, e := range entries {
		bytes += e.bytes
	}
	return bytes
}
