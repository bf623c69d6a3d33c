package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// The living worker reads what waits in the dead one's lanes, beside what commits in its own.
func TestShared_ADeathAmongAThousandTopicsLeavesOtherLanesAlone(t *testing.T) {
	const topics = 1000
	const before, busyFor = 5 * time.Second, 7 * time.Second
	w := newWire(t)
	o := w.outbox(topics)
	first := o.work(shared)
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	// Each of 990 topics has an event every five seconds, and each of ten 20 a second.
	streams := []*stream{o.stream(50*time.Millisecond, names(0, 10)...)}
	for from := 10; from < topics; from += 20 {
		streams = append(streams, o.stream(5*time.Second, names(from, min(from+20, topics))...))
		during(5 * time.Second * 20 / (topics - 10)) // so that they do not all write at once
	}
	during(before)
	living := o.lanesNotOf(first)
	killed := time.Now()
	first.kill()
	during(busyFor)
	for _, s := range streams {
		s.stop()
	}
	o.drained(30 * time.Second)
	o.sharesBecome(even, relay.Lanes)
	require.Contains(t, o.starter("status", "--problems"), "1,000 topics without a problem")

	lanes, arrivals := o.lanesOfKeys(), map[int16][]time.Time{}
	repeats, events := 0, 0
	var slowest struct{ before, living, dead time.Duration }
	for _, s := range streams {
		for _, topic := range s.topics {
			committed, took := s.times(topic), s.arrived(w, topic)
			events += len(took)
			repeats += w.repeats(topic)
			for i, took := range took {
				at := committed[i]
				switch lane := lanes[topicKey{topic, fmt.Sprint("key-", (i+1)%streamKeys)}]; {
				case at.Before(killed.Add(-before)):
				case at.Before(killed.Add(-took)):
					slowest.before = max(slowest.before, took)
				case slices.Contains(living, lane):
					slowest.living = max(slowest.living, took)
				default:
					slowest.dead = max(slowest.dead, took)
				}
			}
			for _, a := range w.of(topic) {
				lane := lanes[topicKey{topic, a.keyOf()}]
				arrivals[lane] = append(arrivals[lane], a.at)
			}
		}
	}
	require.Len(t, arrivals, relay.Lanes)
	var gaps struct{ before, living, dead time.Duration }
	for lane, times := range arrivals {
		slices.SortFunc(times, time.Time.Compare)
		after := &gaps.dead
		if slices.Contains(living, lane) {
			after = &gaps.living
		}
		gaps.before = max(gaps.before, longestGap(times, killed.Add(-before), killed))
		*after = max(*after, longestGap(times, killed, killed.Add(busyFor)))
	}
	t.Logf("longest gap of a lane: %v before the death, then %v of the living worker and %v of the dead one", gaps.before, gaps.living, gaps.dead)
	t.Logf("slowest event: %v before the death, then %v of the living worker and %v of the dead one; %d of %d events repeated",
		slowest.before, slowest.living, slowest.dead, repeats, events)
	// On a machine that does little else, lanes of the living worker wait 0.3 s at most, and those of the dead one 4.2 s: for
	// timing.ShareLease, and until the living worker attends next. On a busy machine, all wait longer, before the death, too.
	require.LessOrEqual(t, gaps.living, max(time.Second, gaps.before), "a lane of the living worker waited")
	require.LessOrEqual(t, slowest.living, max(time.Second, slowest.before), "an event of the living worker waited")
	require.LessOrEqual(t, gaps.dead, 5*time.Second+slack, "a lane of the dead worker came back late")
	require.LessOrEqual(t, slowest.dead, 5*time.Second+slack, "an event of the dead worker came late")
	require.LessOrEqual(t, repeats, inHand)
}

// longestGap is the longest time without an arrival between two moments.
func longestGap(arrivals []time.Time, from, to time.Time) (gap time.Duration) {
	last := from
	for _, at := range arrivals {
		if at.After(from) && at.Before(to) {
			gap = max(gap, at.Sub(last))
			last = at
		}
	}
	return max(gap, to.Sub(last))
}

// lanesNotOf are the lane numbers of shares that another worker holds.
func (o *outbox) lanesNotOf(w *worker) (lanes []int16) {
	o.t.Helper()
	rows, err := o.db.Query(o.t.Context(), `
	    SELECT s.lane FROM outbox.share s JOIN outbox.worker w ON w.id = s.worker
	    WHERE w.name NOT LIKE '%/' || $1::int || ' %' ORDER BY 1`, w.cmd.Process.Pid)
	require.NoError(o.t, err)
	lanes, err = pgx.CollectRows(rows, pgx.RowTo[int16])
	require.NoError(o.t, err)
	require.Len(o.t, lanes, relay.Lanes/2)
	return lanes
}

type topicKey struct{ topic, key string }

func (o *outbox) lanesOfKeys() map[topicKey]int16 {
	o.t.Helper()
	rows, err := o.db.Query(o.t.Context(), `SELECT DISTINCT topic, key, lane FROM outbox.event`)
	require.NoError(o.t, err)
	lanes := map[topicKey]int16{}
	var at topicKey
	var lane int16
	_, err = pgx.ForEachRow(rows, []any{&at.topic, &at.key, &lane}, func() error {
		lanes[at] = lane
		return nil
	})
	require.NoError(o.t, err)
	return lanes
}

// A topic leaves its shares and comes back again and again, and the worker that has it is killed meanwhile.
func TestShared_AWorkerMayBeKilledWhileATopicLeavesAndComesBack(t *testing.T) {
	w := newWire(t)
	o := w.outbox(4)
	isDead := func(topic string, n int) bool { return topic == "t0" && n%150 == 0 }
	w.refuse("t0", func(body string) fate {
		if n, ok := numberIn(body, "e"); ok && isDead("t0", n) {
			return fate{code: "InvalidMessageContents"}
		}
		return fate{}
	})
	first, second := o.work(shared), o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	s := o.stream(5*time.Millisecond, names(0, 4)...)
	s.isDead = isDead
	const isApart, isClaimed = `apart AND claim_id IS NULL`, `apart AND claim_id IS NOT NULL`
	kills := 0
	for _, moments := range [][]string{{isApart}, {isClaimed}, {isClaimed, isApart}} {
		// If no worker takes a share in time, batches take its lanes. The death of a batch is noticed later.
		o.until(30*time.Second, `SELECT count(*) FROM outbox.lane WHERE topic <> 't0' AND claim_id IS NOT NULL`, "lanes of other topics have a batch")
		var pid int
		for _, moment := range moments {
			testenv.Eventually(t, 20*time.Second, func() error {
				return o.db.QueryRow(t.Context(), `
				    SELECT split_part(split_part(w.name, '/', 2), ' ', 1)::int
				    FROM outbox.lane l JOIN outbox.share s USING (lane) JOIN outbox.worker w ON w.id = s.worker
				    WHERE `+moment+` LIMIT 1`).Scan(&pid)
			})
		}
		if pid != first.cmd.Process.Pid {
			first, second = second, first
		}
		require.Equal(t, pid, first.cmd.Process.Pid)
		first.kill()
		kills++
		first = o.work(shared)
		// The dead worker counts as seen for some seconds more.
		o.until(20*time.Second, fmt.Sprintf(`SELECT count(*) FROM outbox.share s JOIN outbox.worker w ON w.id = s.worker
		    WHERE split_part(split_part(w.name, '/', 2), ' ', 1)::int = %d`, pid), "shares belong to the dead worker")
		o.sharesBecome(20*time.Second, 8, 8)
		// A second death while the first one's lanes wait would make them wait twice.
		o.until(20*time.Second, `SELECT count(*) FROM outbox.pending WHERE topic <> 't0' AND created_at < now() - interval '1 second'`, "events wait")
	}
	s.stop()
	o.drained(60 * time.Second)
	repeats := 0
	for _, topic := range s.topics {
		s.arrived(w, topic)
		repeats += w.repeats(topic)
	}
	require.Equal(t, s.written()/150, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	longest, topic := s.worst(w, "t1", "t2", "t3")
	t.Logf("%d of %d events were sent again after %d deaths; the slowest of another topic took %v (%s)",
		repeats, s.written()*len(s.topics), kills, longest, topic)
	require.LessOrEqual(t, repeats, kills*inHand)
	require.Less(t, longest, 10*time.Second, topic)
	// A lane whose attempt died stays apart until the end of that attempt's lease.
	o.togetherWithin(timing.Lease + 30*time.Second)
}

// keyOf returns the key of an event of a stream.
func (a arrival) keyOf() string {
	n, _ := numberIn(a.body, "e")
	return fmt.Sprint("key-", n%streamKeys)
}
