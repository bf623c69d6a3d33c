package postgres

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/outbox"
)

// idOf is an id of version 7 that begins with a time.
func idOf(at time.Time) string {
	ms := fmt.Sprintf("%012x", at.UnixMilli())
	return ms[:8] + "-" + ms[8:] + "-7abc-8def-" + hex.EncodeToString([]byte("abcdef"))
}

func (o testOutbox) find(id string) (found []EventLife, reads int) {
	o.t.Helper()
	parsed, err := outbox.ParseID(id)
	require.NoError(o.t, err)
	found, err = o.ByEventID(o.t.Context(), parsed, func(float64) { reads++ })
	require.NoError(o.t, err)
	return found, reads
}

func TestFind_LooksAmongAllEventsOnlyIfTheIDHasNoTime(t *testing.T) {
	o := open(t)
	begin := time.Now().Add(-50 * time.Hour).Truncate(time.Millisecond)
	// One event a minute.
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at)
	        SELECT 'orders', 'k', 'T', 'x', $1::timestamptz + i * interval '1 minute' FROM generate_series(0, 2999) i`, begin)
	at := begin.Add(1000 * time.Minute)
	set := func(id string, row int) {
		o.exec(`UPDATE outbox.event SET event_id = $1 WHERE id = (SELECT min(id) FROM outbox.event) + $2`, id, row)
	}
	late := idOf(at.Add(7 * time.Hour)) // a clock that is wrong, or an id that was made before
	never := idOf(begin.Add(-100 * 24 * time.Hour))
	set(idOf(at), 1000)
	set(late, 1001)
	set("0198f2a1-7c3b-4def-8123-456789abcdef", 0)
	set(never, 2999)
	for _, c := range []struct {
		id    string
		row   int
		among string
	}{
		{idOf(at), 1000, "those around its time"},
		{late, 1001, "those around its time"},
		{"0198f2a1-7c3b-4def-8123-456789abcdef", 0, "all"},
		{never, 2999, "all"},
		{idOf(at.Add(time.Second)), -1, "all"},
		{idOf(time.Now().Add(1000 * time.Hour)), -1, "all"},
	} {
		found, reads := o.find(c.id)
		require.Equal(t, c.among == "all", reads > 0, c.id)
		if c.row < 0 {
			require.Empty(t, found)
			continue
		}
		require.Len(t, found, 1, c.id)
		require.Equal(t, begin.Add(time.Duration(c.row)*time.Minute), found[0].WrittenAt.Local())
		require.Equal(t, c.id, found[0].EventID)
	}
}

// part is what one statement looks at: the ids above after, up to upTo.
type part struct{ after, upTo int64 }

// What is not where its id says is what takes long: a busy outbox has millions of events
// within a day of it.
func TestFind_GoesByWindowsSaysHowFarItIsAndReadsNothingTwice(t *testing.T) {
	o := open(t)
	begin := time.Now().Add(-70 * time.Hour).Truncate(time.Millisecond)
	for hour := range 70 { // as if a third of a window came in an hour
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at) VALUES ('orders', 'k', 'T', 'x', $1)`, begin.Add(time.Duration(hour)*time.Hour))
		o.exec(`SELECT setval('outbox.event_id_seq', nextval('outbox.event_id_seq') + $1)`, window/3)
	}
	first, last := query[int64](o, `SELECT min(id) FROM outbox.event`), query[int64](o, `SELECT max(id) FROM outbox.event`)
	for name, id := range map[string]string{
		"around its time": idOf(begin.Add(35 * time.Hour)),
		"at the end":      idOf(begin.Add(69 * time.Hour)),
		"of another time": idOf(begin.Add(1000 * time.Hour)),
		"before all":      idOf(begin.Add(-1000 * time.Hour)),
		"without a time":  "0198f2a1-7c3b-4def-8123-456789abcdef",
	} {
		parsed, err := outbox.ParseID(id)
		require.NoError(t, err)
		var looked []part
		var told []float64
		found, err := o.byEventID(t.Context(), parsed, func(part float64) { told = append(told, part) }, func(after, upTo int64) ([]EventLife, error) {
			looked = append(looked, part{after, upTo})
			return o.lives(t.Context(), byEventIDSQL, parsed, after, upTo)
		})
		require.NoError(t, err)
		require.Empty(t, found, name)
		require.True(t, slices.IsSorted(told), "%s: %v", name, told)
		require.GreaterOrEqual(t, len(told), len(looked)-2, "%s: it says how far it is", name)
		require.InDelta(t, 1, told[len(told)-1], 1e-9, name)
		slices.SortFunc(looked, func(a, b part) int { return cmp.Compare(a.after, b.after) })
		end := first - 1
		for _, p := range looked {
			require.Equal(t, end, p.after, "%s: all is read, and nothing twice: %v", name, looked)
			require.LessOrEqual(t, p.upTo-p.after, int64(window), name)
			end = p.upTo
		}
		require.Equal(t, last, end, name)
	}

	// One that is there is found without a look at all.
	o.exec(`UPDATE outbox.event SET event_id = $1 WHERE id = $2`, idOf(begin.Add(50*time.Hour)), last-22*(window/3+2))
	at := idOf(begin.Add(50 * time.Hour))
	require.Equal(t, 1, query[int](o, `SELECT count(*)::int FROM outbox.event WHERE event_id = $1`, at), "a row was given that id")
	found, told := o.find(at)
	require.Len(t, found, 1)
	require.LessOrEqual(t, told, 16, "of 24 windows")
}

func TestFind_HalvesToTheFirstEventOfATime(t *testing.T) {
	o := open(t)
	at := func(minute int) time.Time { return time.Date(2026, 1, 31, 12, minute, 0, 0, time.UTC) }
	for minute := range 20 {
		o.exec(`INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', $1)`, at(2*minute))
		o.exec(`SELECT nextval('outbox.event_id_seq') FROM generate_series(1, $1)`, minute) // what was rolled back
	}
	first, last := query[int64](o, `SELECT min(id) FROM outbox.event`), query[int64](o, `SELECT max(id) FROM outbox.event`)
	for minute := -1; minute < 41; minute++ {
		id, err := o.idAt(t.Context(), at(minute), first, last)
		require.NoError(t, err)
		want := query[int64](o, `SELECT coalesce(min(id), 0) FROM outbox.event WHERE created_at >= $1`, at(minute))
		if want == 0 {
			want = last + 1 // past all
		}
		require.LessOrEqual(t, id, want)
		require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.event WHERE id >= $1 AND id < $2`, id, want), "no event lies between")
	}
}

func TestByKey_FindsTheNewestEventsFirstHoweverFarApart(t *testing.T) {
	o := open(t)
	for i := range 5 {
		o.writeKey("orders", "rare", 1)
		o.writeKey("orders", "other", 3)
		o.exec(`SELECT setval('outbox.event_id_seq', nextval('outbox.event_id_seq') + $1)`, (i%2)*2*window) // within one look, and across
	}
	o.writeKey("orders", "rare", 1) // the newest of all
	var parts []string
	found, err := o.ByKey(t.Context(), "orders", "rare", 4, func(part float64) { parts = append(parts, fmt.Sprintf("%.1f", part)) })
	require.NoError(t, err)
	require.Len(t, found, 4)
	for i := range 3 {
		require.Greater(t, found[i].ID, found[i+1].ID)
	}
	require.Greater(t, len(parts), 2, strings.Join(parts, " "))
	found, err = o.ByKey(t.Context(), "orders", "rare", 100, nil)
	require.NoError(t, err)
	require.Len(t, found, 6)
	found, err = o.ByKey(t.Context(), "orders", "nobody", 100, nil)
	require.NoError(t, err)
	require.Empty(t, found)
}
