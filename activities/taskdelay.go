package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// taskDelay recognises tasks that took long from Temporal to this process. Temporal counts an
// attempt's time from the moment at which it hands the task to a connection. A suspended process
// reads the task only when it goes on, and by then Temporal may have given up the attempt and begun
// another one.
//
// Temporal's clock and this machine's may differ by any time. So a task is compared with the
// quickest one of the last minutes.
type taskDelay struct {
	mu    sync.Mutex
	since time.Time // when this window began
	// quickest is the shortest way of a task in this window, and before in the one before it.
	// Either may be negative: it is the way and the difference of the clocks.
	quickest, before time.Duration
}

// of returns how much longer than the quickest one a task was on its way. The first ones are
// compared with a clock like Temporal's, too: all of them may be delayed.
func (l *taskDelay) of(started, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := now.Sub(started)
	if l.since.IsZero() {
		l.since, l.quickest = now, min(0, took)
		l.before = l.quickest
	}
	if now.Sub(l.since) > timing.LateWindow {
		l.since, l.quickest, l.before = now, took, l.quickest
	}
	l.quickest = min(l.quickest, took)
	return took - min(l.quickest, l.before)
}

// arrives notes how long this attempt's task was on its way, and returns how much longer
// than others.
func (l *taskDelay) arrives(ctx context.Context) time.Duration {
	return l.of(activity.GetInfo(ctx).StartedTime, time.Now())
}

// wanted returns an error unless Temporal still waits for this attempt. It asks with a heartbeat
// that repeats the details of the attempt before, and only if the task was delayed, because a
// heartbeat is a billed Action. Without an answer, wanted assumes that another attempt has begun.
func (a *Activities) wanted(ctx context.Context, last checkpoint) error {
	if a.delays.arrives(ctx) < timing.LateAfter {
		return nil
	}
	var details []any
	if activity.HasHeartbeatDetails(ctx) {
		details = []any{last}
	}
	answer, answered := context.WithTimeout(ctx, timing.StallLimit)
	defer answered()
	// activity.RecordHeartbeat does not say whether there was an answer.
	err := activity.GetClient(ctx).RecordActivityHeartbeat(answer, activity.GetInfo(ctx).TaskToken, details...)
	var canceled *temporal.CanceledError
	switch {
	case errors.As(err, &canceled):
		activity.RecordHeartbeat(ctx, details...) // it cancels ctx, and the attempt may end as canceled
		return cmp.Or(ctx.Err(), err)
	case err != nil:
		return fmt.Errorf("%w before anything was sent: the task was delayed, and Temporal did not confirm it: %w", relay.ErrStopped, err)
	}
	return nil
}
