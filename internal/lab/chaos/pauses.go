package chaos

import (
	"cmp"
	"context"
	"time"
)

// lonePause is the time after which a paused topic without a recovery is worth a note. Its
// pause ends by itself, so it is no violation. But it should happen only if a recovery was
// terminated.
const lonePause = 10 * time.Second

// watchPauses notes topics that are paused in the name of a recovery that does not
// run.
func (fx *fixture) watchPauses(ctx context.Context) {
	alone := map[string]time.Time{} // since when, by topic
	for wait(ctx, time.Second) {
		paused, err := fx.paused(ctx)
		if err != nil {
			continue // PostgreSQL is away
		}
		workflows, err := fx.open(ctx, "Recovery")
		if err != nil {
			continue // Temporal is
		}
		for _, w := range workflows {
			delete(paused, recovers(w))
		}
		for topic := range paused {
			if alone[topic].IsZero() {
				alone[topic] = time.Now()
			}
		}
		for topic, since := range alone {
			if paused[topic] {
				continue
			}
			delete(alone, topic)
			if d := time.Since(since); d > lonePause {
				fx.mu.Lock()
				why := cmp.Or(fx.expectedPauses[topic], "the reason is unknown")
				delete(fx.expectedPauses, topic)
				fx.mu.Unlock()
				fx.note("%s was paused for %.0f s, from %.0fs on, and no recovery was at work: %s", topic, d.Seconds(), since.Sub(fx.began).Seconds(), why)
			}
		}
	}
}

func (fx *fixture) paused(ctx context.Context) (map[string]bool, error) {
	names, err := fx.names(ctx, `SELECT topic FROM outbox.topic WHERE recovery_paused_until > now()`)
	paused := make(map[string]bool, len(names))
	for _, name := range names {
		paused[name] = true
	}
	return paused, err
}
