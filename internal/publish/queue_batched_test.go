package publish

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestQueue_KeepsAKeyInOrderWithSeveralOfItsEventsInARequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue(true, maxEntries)
		q.keyEvents = rapid.IntRange(2, maxEntries).Draw(t, "events of a key")
		added, left := map[string][]int64{}, map[string]int{} // ids by key, and how many of these have left
		failed := map[string]bool{}
		var requests [][]*entry
		out := map[string]bool{}
		id := int64(0)
		finish := func(batch []*entry) {
			switch {
			case len(batch) > 1 && rapid.IntRange(0, 5).Draw(t, "divide") == 0:
				firsts := q.single(batch)
				for _, e := range batch {
					delete(out, e.ev.Key)
				}
				for _, e := range batch {
					left[e.ev.Key]--
				}
				for _, e := range firsts {
					require.False(t, out[e.ev.Key])
					out[e.ev.Key] = true
					left[e.ev.Key]++
				}
				requests = append(requests, firsts)
			default:
				for _, e := range batch {
					accepted := rapid.IntRange(0, 9).Draw(t, "accepted") > 0
					key := e.ev.Key
					q.done(e, accepted)
					failed[key] = failed[key] || !accepted
					delete(out, key)
				}
			}
		}
		next := func() {
			batch, invalid := q.next(1000)
			require.Empty(t, invalid)
			require.LessOrEqual(t, len(batch), maxEntries)
			here := map[string]int{}
			for _, e := range batch {
				key := e.ev.Key
				require.False(t, out[key], "a key has one request in flight")
				require.False(t, failed[key], "nothing follows a failed event")
				require.Equal(t, added[key][left[key]], e.ev.ID, "in order")
				left[key]++
				here[key]++
				require.LessOrEqual(t, here[key], q.keyEvents)
			}
			for key := range here {
				out[key] = true
			}
			if len(batch) > 0 {
				requests = append(requests, append([]*entry(nil), batch...))
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				entries := make([]entry, rapid.IntRange(1, 30).Draw(t, "add"))
				for i := range entries {
					id++
					key := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "key"))
					added[key] = append(added[key], id)
					entries[i] = entry{ev: &relay.Event{Ref: relay.Ref{ID: id}, Key: key}, bytes: rapid.IntRange(1, 300).Draw(t, "bytes")}
				}
				q.add(entries)
			case 1:
				next()
			case 2:
				if len(requests) > 0 {
					i := rapid.IntRange(0, len(requests)-1).Draw(t, "request")
					batch := requests[i]
					requests = append(requests[:i:i], requests[i+1:]...)
					finish(batch)
				}
			}
		}
		for range 10_000 {
			next()
			if len(requests) == 0 {
				break
			}
			batch := requests[0]
			requests = requests[1:]
			finish(batch)
		}
		require.Zero(t, q.unsent())
		held := 0
		for key, ids := range added {
			held += len(ids) - left[key]
			require.True(t, failed[key] || left[key] == len(ids), "all that is not held has left")
		}
		require.Equal(t, held, q.held)
	})
}
