package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// together waits until all lanes have come back to the shares.
func (o *outbox) together() {
	o.t.Helper()
	o.togetherWithin(30 * time.Second)
}

func (o *outbox) togetherWithin(limit time.Duration) {
	o.t.Helper()
	o.until(limit, `SELECT count(*) FROM outbox.lane WHERE apart AND topic LIKE 't%'`, "lanes are apart")
}

// until waits until a count is 0.
func (o *outbox) until(within time.Duration, sql, otherwise string) {
	o.t.Helper()
	testenv.Eventually(o.t, within, func() error {
		if n := o.count(sql); n > 0 {
			return fmt.Errorf("%d %s", n, otherwise)
		}
		return nil
	})
}

func TestShared_SmallTopicsFlowBesideOneThatHasMost(t *testing.T) {
	const topics = 20
	w := newWire(t)
	w.delay = 15 * time.Millisecond
	o := w.outbox(topics)
	o.work(shared)
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	small := o.stream(100*time.Millisecond, names(1, topics)...)
	const ticks, each, more = 20, 180, 5000
	for range ticks { // 190 events a second are of others, and 1,800 of this one
		o.write("t0", "m", each, streamKeys)
		during(100 * time.Millisecond)
	}
	o.write("t0", "n", more, 500)
	o.drainedTopic("t0", 60*time.Second)
	small.stop()
	o.drained(20 * time.Second)
	longest, topic := small.worst(w, small.topics...)
	t.Logf("the slowest event of a small topic took %v", longest)
	require.Less(t, longest, time.Second, topic)
	for _, topic := range small.topics {
		require.Zero(t, w.repeats(topic), topic)
	}
	require.Len(t, w.of("t0"), ticks*each+more, "each event of the large topic came once")
	w.eventually("t0", "n", more, time.Second)
}

func TestShared_TopicsAppearAndVanish(t *testing.T) {
	const topics = 50
	w := newWire(t)
	o := w.outbox(topics)
	o.work(shared)
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	for from := 0; from < topics; from += 10 {
		s := o.stream(20*time.Millisecond, names(from, from+10)...)
		during(time.Second)
		s.stop()
		o.drained(10 * time.Second)
		longest, topic := s.worst(w, s.topics...)
		t.Logf("topics %d to %d: the slowest event took %v", from, from+9, longest)
		require.Less(t, longest, time.Second, topic)
		for _, topic := range s.topics {
			require.Zero(t, w.repeats(topic))
		}
	}
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.lane WHERE apart`))
}

// Two relays on one outbox is a mistake, but not one that harms anybody.
func TestShared_TwoRelaysOnOneOutboxPublishEachEventOnce(t *testing.T) {
	w := newWire(t)
	o := w.outbox(6)
	second := *o
	second.queue = o.queue + "-2"
	second.env = append(slices.Clone(o.env), "OUTBOX_TASK_QUEUE="+second.queue)
	o.work(shared)
	second.work(shared)
	o.schedule()
	second.schedule()
	t.Logf("even after %v", o.sharesBecome(30*time.Second, 8, 8))
	s := o.stream(10*time.Millisecond, names(0, 6)...)
	during(2 * time.Second)
	w.refuse("t3", func(string) fate { return fate{code: "KMS.DisabledException", whole: true} })
	during(2 * time.Second)
	w.refuse("t3", nil)
	during(time.Second)
	s.stop()
	o.drained(90 * time.Second)
	for _, topic := range s.topics {
		s.arrived(w, topic)
		require.Zero(t, w.repeats(topic), topic)
	}
	longest, topic := s.worst(w, "t0", "t1", "t2", "t4", "t5")
	t.Logf("the slowest event of another topic took %v", longest)
	require.Less(t, longest, time.Second, topic)
}
