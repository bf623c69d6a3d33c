package publish

import "sync/atomic"

// requestSize is how large a request of several events may be. The destination's limit may be
// out of date, or only a guess, so it is learned from answers. It is a limit for requests only:
// an event that exceeds it goes alone.
type requestSize struct {
	limit   int           // bytes
	largest int           // bytes of the largest request that was accepted
	shared  *atomic.Int64 // the limit as learned, for all calls of Publish until the next look-up; may be nil
}

// newRequestSize begins with the destination's limit, or a smaller one that was learned.
func newRequestSize(limit int, route *cachedRoute) requestSize {
	if route == nil {
		return requestSize{limit: limit}
	}
	if learned := int(route.learned.Load()); learned > 0 {
		limit = min(learned, limit)
	}
	return requestSize{limit: limit, shared: &route.learned}
}

// rejected notes that a request of so many bytes was too large: the limit becomes half of
// it, but not less than the largest that was accepted.
func (s *requestSize) rejected(bytes int) {
	if s.largest >= bytes {
		s.largest = 0 // not true any more
	}
	if limit := max(bytes/2, s.largest, 1); limit < s.limit {
		s.set(limit)
	}
}

// accepted notes that a request of so many bytes and events was not too large. Half of a rejected
// size may have been less than necessary.
func (s *requestSize) accepted(bytes, events int) {
	s.largest = max(s.largest, bytes)
	if bytes > s.limit && events > 1 {
		s.set(bytes)
	}
}

func (s *requestSize) set(limit int) {
	s.limit = limit
	if s.shared != nil {
		s.shared.Store(int64(limit))
	}
}
