package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestShared_EvidenceIsOfTheTopicAloneAndRecent(t *testing.T) {
	const topics = 200
	w := newWire(t)
	// The events of the topic apart are in batches of their own from the beginning.
	o := w.outbox(topics, "apart: {sqs: "+w.queue("apart.fifo")+", maxPerSecond: 500}")
	o.work(shared)
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	quiet := o.stream(500*time.Millisecond, names(2, topics)...)
	busy := o.stream(10*time.Millisecond, "t0", "t1", "apart")
	during(3 * time.Second)
	// The queues are of the other kind from one request to the next.
	w.refuse("t0", func(string) fate { return fate{code: "InvalidParameterValue"} })
	w.refuse("t1", func(string) fate { return fate{code: "InvalidParameterValue", whole: true} })
	w.refuse("apart", func(string) fate { return fate{code: "InvalidParameterValue"} })
	during(7 * time.Second)
	dead, recovered := map[string]int{}, map[string]int{}
	for _, topic := range busy.topics {
		dead[topic] = o.count(`SELECT count(*) FROM outbox.dead_letter WHERE topic = '` + topic + `'`)
		recovered[topic] = o.count(`SELECT count(*) FROM outbox.dead_letter WHERE topic = '` + topic + `' AND workflow_id LIKE 'outbox-recovery/%'`)
		w.refuse(topic, nil)
	}
	t.Logf("dead letters: %v, of these by the recovery: %v", dead, recovered)
	for topic, n := range dead {
		require.LessOrEqual(t, n-recovered[topic], 2*2, "each worker may believe two refusals of topic %s", topic)
		require.LessOrEqual(t, recovered[topic], 2, "the recovery of topic %s may give up two to reach later events of their keys", topic)
	}
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE topic NOT IN ('t0', 't1', 'apart')`))
	quiet.stop()
	busy.stop()
	o.drained(90 * time.Second)
	longest, topic := quiet.worst(w, quiet.topics...)
	t.Logf("the slowest event of another topic took %v (%s)", longest, topic)
	require.Less(t, longest, 2*time.Second, "an event of topic %s waited for another topic", topic)
	for _, topic := range busy.topics {
		// An attempt may have refusals of before the repair and acceptances of after it.
		require.Equal(t, dead[topic], o.count(`SELECT count(*) FROM outbox.dead_letter WHERE topic = '`+topic+`'`), "the repair of %s made dead letters", topic)
		w.eventually(topic, "e", busy.written()-dead[topic], time.Second)
	}
	o.together()
}

func TestShared_ABlockedKeyBlocksNoOtherKeyAndNoOtherTopic(t *testing.T) {
	w := newWire(t)
	o := w.outbox(4, "blocks: {sqs: "+w.queue("blocks.fifo")+", onPoison: block}")
	w.refuse("blocks", func(body string) fate {
		if body == "e-70" { // key-6
			return fate{code: "InvalidMessageContents"}
		}
		return fate{}
	})
	o.work(shared)
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	s := o.stream(10*time.Millisecond, append(names(0, 4), "blocks")...)
	during(4 * time.Second)
	s.stop()
	o.drained(30 * time.Second)
	longest, topic := s.worst(w, names(0, 4)...)
	t.Logf("the slowest event of another topic took %v", longest)
	require.Less(t, longest, time.Second, topic)
	var want []int
	for n := 70; n <= s.written(); n += streamKeys {
		want = append(want, n)
	}
	require.Equal(t, len(want), o.count(`SELECT count(*) FROM outbox.dead_letter WHERE topic = 'blocks' AND key = 'key-6'`))
	require.Equal(t, len(want), o.count(`SELECT count(*) FROM outbox.dead_letter`))
	w.eventually("blocks", "e", s.written()-len(want), time.Second)
	for _, a := range w.of("blocks") {
		n, _ := numberIn(a.body, "e")
		require.False(t, slices.Contains(want, n), "event %d of the blocked key was published", n)
	}
	w.refuse("blocks", nil)
	done := commandJSON[operated](o, "dead", "redrive", "blocks", "--all", "--by", "ada", "--reason", "a test", "--yes")
	require.EqualValues(t, len(want), done.Done)
	w.eventually("blocks", "e", s.written(), 20*time.Second)
	s.arrived(w, "blocks")
}

// tooFast is the most that arrived above a rate in a window that begins with an arrival.
func tooFast(arrivals []arrival, perSecond float64, window time.Duration) (most float64) {
	for i, first := range arrivals {
		n := 0
		for _, a := range arrivals[i:] {
			if a.at.Sub(first.at) < window {
				n++
			}
		}
		most = max(most, float64(n)-perSecond*window.Seconds())
	}
	return most
}

// A capped topic is in one batch of one worker, whoever has the shares.
func TestShared_ACapHoldsWhileWorkersOfAnyKindComeAndGo(t *testing.T) {
	const rate, burst, n = 100, 10, 1800
	old := build(t, beforeShares)
	w := newWire(t)
	o := w.outbox(3, fmt.Sprintf("capped: {sqs: %s, maxPerSecond: %d}", w.queue("capped.fifo"), rate))
	first := o.work(shared)
	o.schedule("--every", "2s", "--run-for", "6s")
	o.write("capped", "e", n, streamKeys)
	others := o.stream(100*time.Millisecond, names(0, 3)...)
	batches := o.mostBatches("capped")
	// A rebalance at each step.
	second := o.work(shared)
	third := o.work(perTopic)
	earlier := *o
	earlier.programs = old
	fourth := earlier.work()
	during(2 * time.Second) // four workers, of two versions and both modes
	first.stop()
	during(2 * time.Second)
	stopAll(second, third)
	during(2 * time.Second) // the version before alone
	require.Less(t, len(w.of("capped")), n, "the topic has events in each step")
	o.work(shared)
	fourth.stop()
	w.eventually("capped", "e", n, 60*time.Second)
	others.stop()
	o.drained(20 * time.Second)
	arrivals := w.of("capped")
	took := arrivals[len(arrivals)-1].at.Sub(arrivals[0].at)
	t.Logf("%d events at %d a second took %v", len(arrivals), rate, took)
	require.Len(t, arrivals, n, "nothing is repeated")
	for _, topic := range others.topics {
		others.arrived(w, topic)
		require.Zero(t, w.repeats(topic), topic)
	}
	require.Equal(t, 1, batches(), "batches of the topic at once")
	for _, window := range []time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second} {
		above := tooFast(arrivals, rate, window)
		t.Logf("at most %.0f above the rate in %v", above, window)
		// A limiter of the next worker begins with a burst of its own.
		require.LessOrEqual(t, above, float64(2*burst), "events above the rate in a window of %v", window)
	}
}

// mostBatches looks how many claims a topic has at once, until the most is asked for.
func (o *outbox) mostBatches(topic string) (most func() int) {
	over, found := make(chan struct{}), make(chan int, 1)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		most := 0
		defer func() { found <- most }()
		for {
			select {
			case <-over:
				return
			case <-o.t.Context().Done():
				return
			case <-tick.C:
			}
			var n int
			if err := o.db.QueryRow(o.t.Context(), `
			    SELECT count(DISTINCT claim_id) FROM outbox.lane WHERE topic = $1 AND leased_until >= now()`, topic).Scan(&n); err == nil {
				most = max(most, n)
			}
		}
	}()
	return func() int {
		close(over)
		return <-found
	}
}

func TestShared_APauseTakesEffectWithinASecondUnderConstantTraffic(t *testing.T) {
	w := newWire(t)
	o := w.outbox(4)
	o.work(shared)
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	s := o.stream(5*time.Millisecond, names(0, 4)...)
	during(time.Second)
	o.starter("pause", "t1", "--by", "ada", "--reason", "a test")
	paused := time.Now()
	during(3 * time.Second)
	o.starter("resume", "t1", "--by", "ada", "--reason", "a test")
	resumed := time.Now().Add(-time.Second) // the command takes time
	after, latest := 0, paused
	for _, a := range w.of("t1") {
		if a.at.After(paused) && a.at.Before(resumed) {
			after, latest = after+1, a.at
		}
	}
	t.Logf("%d events after the pause, the last after %v", after, latest.Sub(paused))
	require.LessOrEqual(t, latest.Sub(paused), time.Second)
	s.stop()
	o.drained(30 * time.Second)
	longest, topic := s.worst(w, "t0", "t2", "t3")
	t.Logf("the slowest event of another topic took %v", longest)
	require.Less(t, longest, time.Second, topic)
	s.arrived(w, "t1")
	o.together()
}
