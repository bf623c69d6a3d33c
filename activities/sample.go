package activities

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// sampleShare is how much of its time a worker may sample: one part in so many. But it
	// samples once in timing.SampleDeferMost at least.
	sampleShare = 20
	// A sample that is older than so many intervals is not told any more: claims went
	// to another worker meanwhile.
	sampleStale = 3
	// sampleMost is how many topics a sample tells of, so that a history does not grow
	// with their number.
	sampleMost = 30
	// sampleUnrouted is how many of them have no route, however many there are.
	sampleUnrouted = 5
)

// SampleStore is the part of Store that samples need.
type SampleStore interface {
	// TryAcquireSampling reports whether this worker has the right to sample now. If it has not,
	// wait is the time until the next sample is due.
	TryAcquireSampling(ctx context.Context, by string, every time.Duration) (taken bool, wait time.Duration, err error)
	// DeferSampling defers the next sample of all workers, after a slow one of this worker.
	DeferSampling(ctx context.Context, by string, wait time.Duration) error
	Topics(ctx context.Context) ([]relay.TopicState, error)
}

// sampler knows the state of all topics as of a few seconds ago. It looks in the
// background, so that no claim waits for it, and only while there are claims and when
// this worker has the right to sample: of several workers that claim, one samples.
type sampler struct {
	by     string // this worker, as the database knows it
	mu     sync.Mutex
	every  time.Duration
	busy   bool
	next   time.Time
	topics []relay.TopicState // the worst first; nil if there is nothing to tell
	taken  time.Time

	// The last run that was told of a sample, when that sample was taken, and its concerns.
	lastRun      string
	lastTaken    time.Time
	lastConcerns []relay.TopicState
}

// sample is the result of an attempt to take one.
type sample struct {
	topics []relay.TopicState
	taken  bool          // false: another worker has the right, or it failed
	next   time.Duration // how long to wait from the beginning of this one
}

// look reads the state of all topics if this worker has the right to sample. It logs
// a warning if that fails.
func (a *Activities) look(ctx context.Context, every time.Duration) (s sample) {
	ctx = context.WithoutCancel(ctx) // it may outlast the claim that it began in
	began := time.Now()
	taken, wait, err := a.samples.TryAcquireSampling(ctx, a.sampler.by, every)
	if err == nil && !taken {
		// The next sample may be due sooner than it seems now: the database's clock may be set back.
		return sample{next: min(wait, every)}
	}
	if err == nil {
		s.topics, err = a.samples.Topics(ctx)
		for i, t := range s.topics {
			s.topics[i].NoRoute = a.cfg.Routes != nil && !slices.Contains(a.cfg.Routes, t.Topic)
		}
	}
	took := time.Since(began)
	s.next = untilNext(every, took)
	if err == nil {
		s.taken = true
		a.cfg.Metrics.Topics(s.topics)
	}
	if left := s.next - took; taken && s.next > every && left > 0 {
		// Or another worker would look sooner.
		err = errors.Join(err, a.samples.DeferSampling(ctx, a.sampler.by, left))
	}
	if err != nil {
		activity.GetLogger(ctx).Warn("topics not sampled: the Temporal UI shows an older state of them", "error", err)
	}
	return s
}

// untilNext is the time from the beginning of a look to the next one. A look that is slow by accident,
// such as a failover, must not hide all topics for minutes, so the deferral has a bound.
func untilNext(every, took time.Duration) time.Duration {
	return max(every, min(sampleShare*took, timing.SampleDeferMost))
}

// lookWhenDue begins a sample if it is time for one.
func (s *sampler) lookWhenDue(look func(every time.Duration) sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy || time.Now().Before(s.next) {
		return
	}
	s.busy = true
	every := s.every
	go func() {
		began := time.Now()
		result := look(every)
		relay.SortByConcern(result.topics)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
		s.next = began.Add(result.next)
		if result.taken {
			s.topics, s.taken = result.topics, began
		}
	}()
}

// tell adds the newest sample to an answer, unless its run was told before.
func (s *sampler) tell(run string, r ClaimResult) ClaimResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isNews(run) || time.Since(s.taken) > sampleStale*s.every {
		return r
	}
	s.lastRun, s.lastTaken, s.lastConcerns = run, s.taken, concerns(s.topics)
	for _, t := range s.topics {
		if t.Concern() == relay.Unrouted {
			r.Unrouted++
			if r.Unrouted > sampleUnrouted {
				continue
			}
		}
		if len(r.Topics) < sampleMost {
			r.Topics = append(r.Topics, t)
		}
	}
	r.MoreTopics = len(s.topics) - len(r.Topics)
	return r
}

func (s *sampler) isNews(run string) bool {
	return len(s.topics) > 0 && (s.lastRun != run || s.lastTaken != s.taken)
}

// isUrgent reports whether the newest sample has something that an operator wants
// to see at once. The rest waits for the next answer.
func (s *sampler) isUrgent(run string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isNews(run) {
		return false
	}
	var known []relay.TopicState
	if s.lastRun == run {
		known = s.lastConcerns
	}
	return !slices.Equal(concerns(s.topics), known)
}

// concerns is the part of a sample whose changes an operator wants to see at once: pauses,
// recoveries and their reason, dead letters, and late topics. The number and the age of pending
// events are left out, because they change with every sample.
func concerns(topics []relay.TopicState) (some []relay.TopicState) {
	for _, t := range topics {
		if t.Oldest < relay.Late {
			t.Oldest = 0
		} else {
			t.Oldest = relay.Late
		}
		if t.Pending, t.Capped, t.Retrying = min(t.Pending, 1), false, 0; !t.NoRoute {
			t.Pending = 0
		}
		t.Failure = relay.Failure{Code: t.Failure.Code} // each attempt has other times
		if t.Concern() != relay.Nothing {
			some = append(some, t)
		}
	}
	slices.SortFunc(some, func(a, b relay.TopicState) int { return strings.Compare(a.Topic, b.Topic) })
	return some
}
