package publish

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

// queueModel is what a queue promises, kept in the simplest way: lists.
type queueModel struct {
	ordered bool
	limit   int
	// smallness is how many of the largest events fit into a request.
	smallness int
	events    []*relay.Event         // as they were added
	state     map[int64]string       // "", "out", "acked", "failed"
	out       map[*entry]bool        // handed out, not done
	size      map[int64]int          // bytes
	invalid   map[int64]bool         // need no request
	behind    map[int64]*relay.Event // the event before, of the same key
}

// held reports whether an earlier event of ev's key failed.
func (m *queueModel) held(ev *relay.Event) bool {
	for p := m.behind[ev.ID]; p != nil; p = m.behind[p.ID] {
		if m.state[p.ID] == "failed" {
			return true
		}
	}
	return false
}

// sendable reports whether ev may leave now.
func (m *queueModel) sendable(ev *relay.Event) bool {
	before := m.behind[ev.ID]
	return m.state[ev.ID] == "" && (before == nil || m.state[before.ID] == "acked")
}

func (m *queueModel) count() (held, unsent int) {
	for _, ev := range m.events {
		switch {
		case m.state[ev.ID] != "":
		case m.held(ev):
			held++
		default:
			unsent++
		}
	}
	return held, unsent
}

func TestQueue_KeepsItsPromisesUnderEverySchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &queueModel{
			ordered:   rapid.Bool().Draw(t, "ordered"),
			limit:     rapid.IntRange(1, 100).Draw(t, "limit"),
			smallness: rapid.SampledFrom([]int{1, 3, 9, 30}).Draw(t, "smallness"),
			state:     map[int64]string{}, out: map[*entry]bool{}, size: map[int64]int{},
			invalid: map[int64]bool{}, behind: map[int64]*relay.Event{},
		}
		q := newQueue(m.ordered, maxEntries)
		t.Repeat(map[string]func(*rapid.T){
			"add":  func(t *rapid.T) { m.add(t, q) },
			"next": func(t *rapid.T) { m.next(t, q) },
			"done": func(t *rapid.T) { m.done(t, q) },
			"":     func(t *rapid.T) { m.check(t, q) },
		})
		// In the end everything leaves that is not held.
		for range 10_000 {
			m.check(t, q)
			if len(m.out) == 0 && q.unsent() == 0 {
				return
			}
			m.next(t, q)
			if len(m.out) > 0 {
				m.done(t, q)
			}
		}
		t.Fatalf("%d events never leave", q.unsent())
	})
}

func (m *queueModel) add(t *rapid.T, q *queue) {
	n := rapid.IntRange(0, 30).Draw(t, "n")
	entries := make([]entry, n)
	for i := range entries {
		ev := &relay.Event{Ref: relay.Ref{ID: int64(len(m.events) + 1)}}
		// A few busy keys among many with one event.
		if k := rapid.IntRange(0, 16).Draw(t, "key"); k > 8 {
			ev.Key = fmt.Sprint("own ", ev.ID)
		} else if k > 0 {
			ev.Key = fmt.Sprint(k)
		}
		if m.ordered && ev.Key != "" {
			for _, e := range m.events {
				if e.Key == ev.Key {
					m.behind[ev.ID] = e
				}
			}
		}
		m.events = append(m.events, ev)
		m.size[ev.ID] = rapid.IntRange(0, max(1, m.limit/m.smallness)).Draw(t, "bytes")
		if rapid.IntRange(0, 19).Draw(t, "large") == 0 {
			m.size[ev.ID] = m.limit + 1
		}
		entries[i] = entry{ev: ev, bytes: m.size[ev.ID]}
		if rapid.IntRange(0, 19).Draw(t, "invalid") == 0 {
			m.invalid[ev.ID] = true
			entries[i].invalid = &relay.PublishError{Code: "no"}
		}
	}
	q.add(entries)
}

func (m *queueModel) next(t *rapid.T, q *queue) {
	possible := 0
	for _, ev := range m.events {
		if m.sendable(ev) {
			possible++
		}
	}
	batch, invalid := q.next(m.limit)
	bytes, keys, last := 0, map[string]bool{}, int64(0)
	for _, e := range batch {
		if !m.sendable(e.ev) || m.invalid[e.ev.ID] {
			t.Fatalf("event %d of key %q left when it must not", e.ev.ID, e.ev.Key)
		}
		if m.ordered && e.ev.Key != "" && keys[e.ev.Key] {
			t.Fatalf("two events of key %q in a request", e.ev.Key)
		}
		if e.ev.ID < last {
			t.Fatalf("event %d comes after %d in a request", e.ev.ID, last)
		}
		keys[e.ev.Key], last = true, e.ev.ID
		bytes += m.size[e.ev.ID]
	}
	for _, e := range invalid {
		if !m.sendable(e.ev) || !m.invalid[e.ev.ID] {
			t.Fatalf("event %d left as invalid when it must not", e.ev.ID)
		}
	}
	for _, e := range slices.Concat(batch, invalid) {
		if m.state[e.ev.ID] != "" {
			t.Fatalf("event %d left twice", e.ev.ID)
		}
		m.state[e.ev.ID] = "out"
		m.out[e] = true
	}
	if len(batch) > maxEntries || bytes > m.limit && len(batch) > 1 {
		t.Fatalf("a request of %d events and %d bytes, limit %d", len(batch), bytes, m.limit)
	}
	// Full means that the oldest of the rest does not fit.
	if left := possible - len(batch) - len(invalid); left > 0 && len(batch) < maxEntries {
		for _, ev := range m.events {
			if m.sendable(ev) {
				if bytes+m.size[ev.ID] <= m.limit || len(batch) == 0 {
					t.Fatalf("event %d was left behind by a request of %d events and %d bytes", ev.ID, len(batch), bytes)
				}
				break
			}
		}
	}
}

func (m *queueModel) done(t *rapid.T, q *queue) {
	if len(m.out) == 0 {
		t.Skip("nothing is out")
	}
	for _, ev := range m.events { // a map's order would not be reproducible
		for e := range m.out {
			if e.ev != ev {
				continue
			}
			ok := e.invalid == nil && rapid.IntRange(0, 9).Draw(t, "acknowledged") > 0
			delete(m.out, e)
			m.state[ev.ID] = map[bool]string{true: "acked", false: "failed"}[ok]
			q.done(e, ok)
			if rapid.Bool().Draw(t, "enough") {
				return
			}
			break
		}
	}
}

func (m *queueModel) check(t *rapid.T, q *queue) {
	held, unsent := m.count()
	if q.held != held || q.unsent() != unsent {
		t.Fatalf("the queue counts %d held and %d unsent, they are %d and %d", q.held, q.unsent(), held, unsent)
	}
}

func TestQueue_ForgetsTheContentsOfEventsThatItHolds(t *testing.T) {
	page := make([]relay.Event, 4)
	entries := make([]entry, len(page))
	for i := range page {
		page[i] = relay.Event{Key: "k", Payload: "large", Attributes: map[string]string{"a": "b"}}
		entries[i] = entry{ev: &page[i]}
	}
	q := newQueue(true, 10)
	q.add(entries[:3])
	sent, _ := q.next(1 << 20)
	require.Len(t, sent, 1)
	q.done(sent[0], false)
	q.add(entries[3:])
	require.Equal(t, 3, q.held)
	for _, ev := range page {
		require.Empty(t, ev.Payload)
		require.Nil(t, ev.Attributes)
	}
}
