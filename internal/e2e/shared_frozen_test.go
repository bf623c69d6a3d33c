package e2e

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/timing"
)

// inHand is the most that a worker sends again after its death.
const inHand = 1000

func TestShared_AFrozenWorkerRepeatsNothing(t *testing.T) {
	t.Parallel()
	for _, frozen := range []time.Duration{3 * time.Second, 6 * time.Second} {
		t.Run(frozen.String(), func(t *testing.T) {
			w := newWire(t)
			o := w.outbox(5, "standard: {sqs: "+w.queue("standard")+"}")
			first := o.work(shared)
			o.work(shared)
			o.schedule()
			o.sharesBecome(30*time.Second, 8, 8)
			s := o.stream(3*time.Millisecond, append(names(0, 5), "standard")...)
			during(time.Second)
			first.signal(syscall.SIGSTOP)
			during(frozen)
			first.signal(syscall.SIGCONT)
			during(2 * time.Second)
			s.stop()
			o.drained(30 * time.Second)
			repeats := 0
			for _, topic := range s.topics {
				s.o.arrivedOnce(w, s, topic, frozen < timing.ShareLease)
				repeats += w.repeats(topic)
			}
			longest, topic := s.worst(w, names(0, 5)...)
			t.Logf("%d of %d events of all topics were sent again; the slowest took %v (%s)", repeats, s.written()*len(s.topics), longest, topic)
			require.LessOrEqual(t, repeats, inHand)
			o.sharesBecome(10*time.Second, 8, 8)
		})
	}
}

// arrivedOnce checks that no event of a topic came again, or that a FIFO queue recognises those that did.
func (o *outbox) arrivedOnce(w *wire, s *stream, topic string, never bool) {
	o.t.Helper()
	if topic != "standard" { // which keeps no order
		s.arrived(w, topic)
	}
	if never {
		require.Zero(o.t, w.repeats(topic), "%s: events were sent again", topic)
	}
}

// While Temporal says nothing, the workers go on with the shares that they have.
func TestShared_ASilentTemporalStopsAndRepeatsNothing(t *testing.T) {
	w := newWire(t)
	o := w.outbox(5)
	line := newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	o.work(shared, "TEMPORAL_ADDRESS="+line.address)
	o.work(shared, "TEMPORAL_ADDRESS="+line.address)
	o.schedule("--every", "2s", "--run-for", "5s") // a run ends meanwhile
	o.sharesBecome(30*time.Second, 8, 8)
	s := o.stream(10*time.Millisecond, names(0, 5)...)
	during(time.Second)
	line.set(silent)
	during(5 * time.Second)
	line.set(whole)
	during(3 * time.Second)
	s.stop()
	o.drained(20 * time.Second)
	longest, topic := s.worst(w, s.topics...)
	t.Logf("the slowest event took %v (%s)", longest, topic)
	require.Less(t, longest, time.Second, topic)
	for _, topic := range s.topics {
		require.Zero(t, w.repeats(topic), topic)
	}
	o.sharesBecome(10*time.Second, 8, 8)
}
