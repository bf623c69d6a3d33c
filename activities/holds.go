package activities

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

// HoldStore is the part of Store that finds topics whose recovery has ended.
type HoldStore interface {
	// RecoveryHolds returns the holds that last for longer than the time left.
	RecoveryHolds(ctx context.Context, left time.Duration) ([]relay.RecoveryHold, error)
	// AbandonHold ends a hold that no attempt has renewed since. It also frees the lanes of a claim that wait
	// for another attempt, or all its lanes if no attempt is at work.
	AbandonHold(ctx context.Context, h relay.RecoveryHold, claimID string, noAttempt bool) (abandoned bool, err error)
}

// RecoveryRun is the knowledge of Temporal about the last run of a recovery.
type RecoveryRun struct {
	// Ended is true if Temporal knows that the recovery is over: no other attempt begins.
	Ended bool
	// Completed is true if it ended by itself: no attempt is at work any more. An attempt of a
	// recovery that was terminated can go on for seconds.
	Completed bool
	// ClaimID is the claim of its batch, if Ended.
	ClaimID string
}

// holdsMost is how many recoveries a worker asks Temporal for at a time. If more topics are held, they
// take turns.
const holdsMost = 20

// holds ends the holds of recoveries that have ended. There are such holds after a recovery was terminated,
// and after a failover to a standby that lagged: it still has a hold that was ended on the old primary.
// The hold would expire in the end, but until then the events of the topic would wait.
//
// holds looks in the background, so that no claim waits for it, and only while there are claims.
type holds struct {
	every time.Duration
	mu    sync.Mutex
	busy  bool
	next  time.Time
	asked map[string]time.Time // by topic; only the look under way uses it
}

// endHoldsWhenDue begins a look at the holds if it is time for one.
func (a *Activities) endHoldsWhenDue(ctx context.Context) {
	h := &a.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.cfg.Recovery == nil || h.busy || time.Now().Before(h.next) {
		return
	}
	h.busy, h.next = true, time.Now().Add(h.every)
	ctx = context.WithoutCancel(ctx) // the look may outlast the claim that it began in
	go func() {
		if err := a.endHolds(ctx); err != nil {
			activity.GetLogger(ctx).Warn("holds of recoveries that have ended were not looked for: they expire by themselves", "error", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.busy = false
	}()
}

// endHolds asks Temporal for the recoveries that hold topics, and ends the holds of those that have ended.
//
// It leaves out the holds that last for at most Config.HandoverHold. An attempt makes such a hold before
// the recovery begins, so that there may be no recovery yet.
func (a *Activities) endHolds(ctx context.Context) error {
	found, err := a.held.RecoveryHolds(ctx, a.cfg.HandoverHold)
	if err != nil {
		return err
	}
	for _, hold := range a.holds.turn(found) {
		a.holds.asked[hold.Topic] = time.Now()
		run, err := a.cfg.Recovery(ctx, hold.WorkflowID)
		if err != nil {
			return err
		}
		if !run.Ended {
			continue
		}
		abandoned, err := a.held.AbandonHold(ctx, hold, run.ClaimID, run.Completed)
		if err != nil {
			return err
		}
		if abandoned {
			activity.GetLogger(ctx).Info("the recovery that held the topic has ended: claims take the topic again",
				"topic", hold.Topic, "recovery", hold.WorkflowID)
		}
	}
	return nil
}

// turn returns those of the holds to ask for now: the ones that were not asked for, or not for the longest time.
// The caller notes when it asks for each. If Temporal cannot tell about one, the look ends, and the next look
// begins with another one.
func (h *holds) turn(found []relay.RecoveryHold) []relay.RecoveryHold {
	known := h.asked
	h.asked = make(map[string]time.Time, len(found))
	for _, hold := range found {
		h.asked[hold.Topic] = known[hold.Topic]
	}
	slices.SortStableFunc(found, func(a, b relay.RecoveryHold) int { return h.asked[a.Topic].Compare(h.asked[b.Topic]) })
	return found[:min(len(found), holdsMost)]
}
