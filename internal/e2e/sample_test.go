package e2e

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// samplings notes when a worker began to sample the topics: the setting that goes
// before it is sent for nothing else, and in one piece.
type samplings struct {
	mu sync.Mutex
	at []time.Time
}

func (s *samplings) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range bytes.Count(b, []byte("set_config('enable_bitmapscan'")) {
		s.at = append(s.at, time.Now())
	}
	return len(b), nil
}

func (s *samplings) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.at...)
}

// Runs are short, so that their claims go now to one worker, now to the other. If each sampled for itself, there
// would be twice as many samples.
func TestSampling_IsDoneByOneOfTwoWorkersAndItsGaugesNeverGo(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	seen := &samplings{}
	line := newTappedProxy(t, hostOf(t, o.url), seen)
	both := []*worker{o.work("DATABASE_URL=" + line.inFrontOf(t, o.url)), o.work("DATABASE_URL=" + line.inFrontOf(t, o.url))}
	o.schedule("--every", "1s", "--run-for", "1s")
	shown := false
	testenv.Eventually(t, 100*time.Second, func() error {
		o.write("orders", "e", 5, 5) // each poll: so that claims end, and go round
		showing, published := 0, 0
		for _, w := range both {
			m, _ := w.metrics()
			if m.has("outbox_topics_sampled") && m.has("outbox_pending_events", `topic="orders"`) {
				showing++
			}
			if m[`outbox_events_published_total{topic="orders"}`] > 0 {
				published++
			}
		}
		require.False(t, shown && showing == 0, "the gauges were there, and are gone")
		shown = shown || showing > 0
		if published < len(both) || len(seen.times()) < 5 {
			return fmt.Errorf("%d samples, %d workers publish, %d show", len(seen.times()), published, showing)
		}
		return nil
	})
	at := seen.times()
	for i := range at[1:] {
		// Ten seconds, less the time that a sample was late. If both sampled, one of two
		// pauses would be five seconds or less.
		require.Greater(t, at[i+1].Sub(at[i]), 6*time.Second, "samples at %v", at)
	}
}

func TestSampling_IsTakenOverWhenItsWorkerIsGone(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	first := o.work()
	o.schedule()
	showing := func(w *worker) func() error {
		return func() error {
			o.write("orders", "e", 5, 5)
			if m, _ := w.metrics(); !m.has("outbox_topics_sampled") {
				return errNotYet
			}
			return nil
		}
	}
	testenv.Eventually(t, 30*time.Second, showing(first))
	second := o.work()
	first.kill()
	testenv.Eventually(t, 60*time.Second, showing(second))
}
