package chaos

import (
	"cmp"
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

// lonePause is the time after which a paused topic without a recovery is worth a note. The relay
// ends such a pause within seconds. The checker decides whether it lasted for too long.
const lonePause = 10 * time.Second

// pauseLookMost is how much of the time between two looks counts: PostgreSQL or Temporal was away if there
// was no look for longer.
const pauseLookMost = 3 * time.Second

// watchPauses notes topics that are paused in the name of a recovery that does not
// run.
func (fx *fixture) watchPauses(ctx context.Context) {
	alone := map[string]*check.LoneHold{} // by topic
	looked := time.Now()
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
		passed := min(time.Since(looked), pauseLookMost)
		looked = time.Now()
		for topic := range paused {
			if alone[topic] == nil {
				alone[topic] = &check.LoneHold{Topic: topic, Since: looked}
			} else {
				alone[topic].For += passed
			}
		}
		for topic, hold := range alone {
			if !paused[topic] {
				delete(alone, topic)
				fx.pausedAlone(*hold)
			}
		}
	}
	for _, hold := range alone {
		fx.pausedAlone(*hold)
	}
}

// pausedAlone keeps a pause for the checker, unless it was short.
func (fx *fixture) pausedAlone(h check.LoneHold) {
	if h.For <= lonePause {
		return
	}
	fx.mu.Lock()
	h.Why = cmp.Or(fx.expectedPauses[h.Topic], "the reason is unknown")
	delete(fx.expectedPauses, h.Topic)
	fx.loneHolds = append(fx.loneHolds, h)
	fx.mu.Unlock()
	fx.note("%s was paused for %.0f s, from %.0fs on, and no recovery was at work: %s", h.Topic, h.For.Seconds(), h.Since.Sub(fx.began).Seconds(), h.Why)
}

func (fx *fixture) paused(ctx context.Context) (map[string]bool, error) {
	names, err := fx.names(ctx, `SELECT topic FROM outbox.topic WHERE recovery_paused_until > now()`)
	paused := make(map[string]bool, len(names))
	for _, name := range names {
		paused[name] = true
	}
	return paused, err
}
