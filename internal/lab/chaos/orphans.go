package chaos

import (
	"cmp"
	"context"
	"time"
)

// orphanAge is from when on a paused topic without a recovery is worth a note. Its
// pause ends by itself, so it is no violation; but if nobody terminated anything,
// it should not come to that.
const orphanAge = 10 * time.Second

// watchPauses notes topics that are paused in the name of a recovery that does not
// run.
func (b *bed) watchPauses(ctx context.Context) {
	alone := map[string]time.Time{} // since when, by topic
	for wait(ctx, time.Second) {
		paused, err := b.paused(ctx)
		if err != nil {
			continue // PostgreSQL is away
		}
		workflows, err := b.open(ctx, "Recovery")
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
			if d := time.Since(since); d > orphanAge {
				b.mu.Lock()
				why := cmp.Or(b.orphaned[topic], "nobody knows why")
				delete(b.orphaned, topic)
				b.mu.Unlock()
				b.note("%s was paused for %.0f s, from %.0fs on, and no recovery was at work: %s", topic, d.Seconds(), since.Sub(b.began).Seconds(), why)
			}
		}
	}
}

func (b *bed) paused(ctx context.Context) (map[string]bool, error) {
	names, err := b.names(ctx, `SELECT topic FROM outbox.topic WHERE recovery_paused_until > now()`)
	paused := make(map[string]bool, len(names))
	for _, name := range names {
		paused[name] = true
	}
	return paused, err
}
