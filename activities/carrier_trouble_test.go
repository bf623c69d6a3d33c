package activities

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// oldest watches a topic, and returns how old an event was at most that had not arrived.
func (w *world) oldest(topic string, within time.Duration) (age time.Duration) {
	for began := time.Now(); time.Since(began) < within; time.Sleep(100 * time.Millisecond) {
		w.do(func() {
			for _, m := range w.pending {
				if m.topic == topic && w.arrived[m] == 0 {
					age = max(age, time.Since(time.UnixMicro(m.At)))
				}
			}
		})
	}
	return age
}

// A person's transaction may lock pending rows of one topic.
func TestCarrier_SettlesOthersWhileRowsOfOneTopicAreLocked(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		locked := true
		w.prepare = func(p *process) {
			p.cfg.reads = lockedReads{p, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return locked }}
		}
		w.seated(t, "a", Config{})
		stop := w.traffic(t, 10*time.Millisecond, "good", "good-2", "good-3", "locked")
		time.Sleep(5 * time.Second)
		oldest := w.oldest("good", 20*time.Second)
		stop()
		w.do(func() { locked = false })
		require.LessOrEqual(t, oldest, 3*time.Second)
	})
}

// lockedReads is a database with a lock on the rows of the topic "locked".
type lockedReads struct {
	*process
	locked func() bool
}

func (l lockedReads) SettleTopics(ctx context.Context, done []relay.TopicRefs) error {
	if l.locked() && slices.ContainsFunc(done, func(d relay.TopicRefs) bool { return d.Topic == "locked" }) {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.process.SettleTopics(ctx, done)
}
