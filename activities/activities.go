// Package activities does the relay's work: it claims batches of pending events
// and publishes them. An activity sees payloads; the workflow that scheduled it
// sees references and counts, so that no payload enters a history.
package activities

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// Store is where events wait. internal/postgres implements it.
type Store interface {
	Claim(ctx context.Context, r relay.ClaimRequest) ([]relay.Batch, error)
	Claimed(ctx context.Context, by string) ([]relay.Batch, error)
	LeavesOut(ctx context.Context, routed []string) (bool, error)
	TakeOver(ctx context.Context, b relay.Batch) (relay.Lease, error)
	Load(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (relay.Page, error)
	Exists(ctx context.Context, r relay.Ref) (bool, error)
	Borrow(ctx context.Context, b relay.Batch, l relay.Lease) (map[int16]int64, error)
	Probe(ctx context.Context, l relay.Lease, inHand []relay.Ref, p relay.Probe) (relay.Probed, error)
	Highest(ctx context.Context, l relay.Lease) (relay.Bound, error)
	Settle(ctx context.Context, topic string, done []relay.Ref) error
	// Apart returns Settle on a connection of its own, and what ends that.
	Apart(ctx context.Context) (settle func(ctx context.Context, topic string, done []relay.Ref) error, end func(), err error)
	Renew(ctx context.Context, l relay.Lease, lanes []int16) error
	Keep(ctx context.Context, l relay.Lease, lanes []int16) error
	Release(ctx context.Context, l relay.Lease, read relay.Read) error
	ReleaseClaim(ctx context.Context, b relay.Batch) error
	DeadLetter(ctx context.Context, l relay.Lease, workflowID string, dead []relay.Outcome) error
	Refuse(ctx context.Context, topic string, refused []relay.Outcome) ([]relay.Refusal, error)
	Blocked(ctx context.Context, topic string, keys []string) (map[relay.Chain]int64, error)
	PauseTopic(ctx context.Context, topic, workflowID string, pause time.Duration) error
	NoteFailure(ctx context.Context, topic, workflowID string, f relay.Failure, next time.Duration) error
	ResumeTopic(ctx context.Context, topic, workflowID string) error
	MakePartitions(ctx context.Context, ahead int, progress func()) (relay.Partitions, error)
	DropPartitions(ctx context.Context, keep int, progress func()) (relay.Partitions, error)
	Health(ctx context.Context) (relay.Health, error)
	TakeTurn(ctx context.Context, by string, every time.Duration) (taken bool, wait time.Duration, err error)
	DeferTurn(ctx context.Context, by string, wait time.Duration) error
	Topics(ctx context.Context) ([]relay.TopicState, error)
	OperationStore
	AskStore
	ReceiptStore
}

// Publisher sends events to their destination. internal/publish implements it.
type Publisher interface {
	Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error)
	// Destination says where a topic's events go, for people. Empty if nobody knows.
	Destination(topic string) string
	// Ordered reports whether a topic's destination keeps the events of a key in
	// order.
	Ordered(topic string) bool
}

// Config is what the activities need. Store and Publisher are required.
type Config struct {
	Store     Store
	Publisher Publisher
	// Lease is how long Store's leases hold without being renewed. Default timing.Lease.
	Lease time.Duration
	// PollEvery is the shortest time between two looks at the database while
	// nothing is pending. Default 20 ms.
	PollEvery time.Duration
	// SampleEvery is how often the state of all topics is looked at, by one of the
	// workers that have claims; it takes at most a twentieth of the time. Default 10 s.
	SampleEvery time.Duration
	// BatchFor is how long a batch goes on while its lanes hold more. Default timing.BatchFor.
	BatchFor time.Duration
	// RecoveryPause is how long a topic stays paused when its recovery no longer
	// says that it is at work. Default timing.RecoveryPause.
	RecoveryPause time.Duration
	// HandoverPause is how long a topic stays paused when its recovery has to begin,
	// in case that it never does. Default timing.HandoverPause.
	HandoverPause time.Duration
	// Routes are the topics that Publisher has a destination for. Of others, a few are
	// claimed at a time. nil: all topics are claimed alike.
	Routes []string
	// Topics are topics with a policy of their own.
	Topics map[string]TopicPolicy
	// Metrics is told what happens. Default: nobody is.
	Metrics Metrics
	// Running reports whether Temporal knows a workflow, and whether it runs. Default: nobody
	// can tell, and an operation on record is taken for one that is under way.
	Running func(ctx context.Context, workflowID string) (found, running bool, err error)
	// WaitForStart is how long to wait for the workflow of an operation on record that has
	// none. Default relay.WaitForStart.
	WaitForStart time.Duration
}

// Activities are the relay's activities. Register the struct without a name
// prefix: workflows refer to its methods.
type Activities struct {
	cfg      Config
	clock    timing.Clock
	ledger   *ledger
	receipts *receipts
	doubts   doubts
	sampler  sampler
	paces    map[string]*rate.Limiter
	late     lateness
	// routeWait is timing.RouteWait, but in tests.
	routeWait time.Duration
}

// New returns activities that use the given parts.
func New(cfg Config) (*Activities, error) {
	if cfg.Store == nil || cfg.Publisher == nil {
		return nil, errors.New("activities need a store and a publisher")
	}
	if cfg.Lease == 0 {
		cfg.Lease = timing.Lease
	}
	if cfg.PollEvery == 0 {
		cfg.PollEvery = 20 * time.Millisecond
	}
	if cfg.SampleEvery == 0 {
		cfg.SampleEvery = 10 * time.Second
	}
	if cfg.BatchFor == 0 {
		cfg.BatchFor = timing.BatchFor
	}
	if cfg.RecoveryPause == 0 {
		cfg.RecoveryPause = timing.RecoveryPause
	}
	if cfg.HandoverPause == 0 {
		cfg.HandoverPause = timing.HandoverPause
	}
	if cfg.WaitForStart == 0 {
		cfg.WaitForStart = relay.WaitForStart
	}
	if cfg.Metrics == nil {
		cfg.Metrics = noMetrics{}
	}
	return &Activities{
		cfg: cfg, ledger: newLedger(cfg.Store), receipts: newReceipts(cfg.Store, cfg.Metrics), routeWait: timing.RouteWait, paces: newPaces(cfg.Topics),
		sampler: sampler{by: rand.Text(), every: cfg.SampleEvery},
	}, nil
}
