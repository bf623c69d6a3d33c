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

// Store is where events wait. internal/postgres implements it. Each part of the activities
// sees only the port that it needs, which stands in the part's file.
type Store interface {
	ClaimStore
	SampleStore
	PublishStore
	HoldStore
	ReceiptStore
	OperationStore
	AskStore
	MaintenanceStore
}

// Publisher sends events to their destination. internal/publish implements it.
type Publisher interface {
	Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error)
	// Destination says where a topic's events go, for people. Empty if that is not known.
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
	// workers that have claims. It takes at most a twentieth of the time, but happens at least
	// once a minute. Default 10 s.
	SampleEvery time.Duration
	// BatchFor is how long a batch goes on while its lanes hold more. Default timing.BatchFor.
	BatchFor time.Duration
	// RecoveryHold is how long a topic stays in recovery when its recovery no longer
	// says that it is at work. Default timing.RecoveryHold.
	RecoveryHold time.Duration
	// HandoverHold is how long a topic is in recovery when its recovery has to begin,
	// in case that it never does. Default timing.HandoverHold.
	HandoverHold time.Duration
	// Routes are the topics that Publisher has a destination for. Of others, a few are
	// claimed at a time. nil: all topics are claimed alike.
	Routes []string
	// Topics are topics with a policy of their own.
	Topics map[string]TopicPolicy
	// PayloadBudget bounds the memory that the contents of events take, in bytes, over all batches:
	// three times their size counts. One event may exceed it. Default: DefaultPayloadBudget.
	PayloadBudget int64
	// Metrics is told what happens. Default: it is not counted.
	Metrics Metrics
	// Running reports whether Temporal knows a workflow, and whether it runs. Default: that is not
	// known, and an operation on record is taken for one that is under way.
	Running func(ctx context.Context, workflowID string) (found, running bool, err error)
	// Recovery returns the knowledge of Temporal about the recovery of that workflow id. Default: that is
	// not known, and the hold of a recovery that has ended expires by itself.
	Recovery func(ctx context.Context, workflowID string) (RecoveryRun, error)
	// Sharing makes the worker hold shares, see Carry. nil: it only has batches of one topic.
	Sharing *Sharing
	// WaitForStart is how long to wait for the workflow of an operation on record that has
	// none. Default relay.WaitForStart.
	WaitForStart time.Duration
}

// Activities are the relay's activities. Register the struct without a name
// prefix: workflows refer to its methods.
type Activities struct {
	cfg         Config
	claims      ClaimStore
	samples     SampleStore
	batches     PublishStore
	held        HoldStore
	operations  OperationStore
	asked       AskStore
	maintenance MaintenanceStore

	clock     timing.Clock
	budget    *budget
	ledger    *ledger
	receipts  *receipts
	ambiguous ambiguity
	sampler   sampler
	holds     holds
	paces     map[string]*rate.Limiter
	delays    taskDelay
	carrier   *carrier // nil without Config.Sharing
	carried   carried
	offers    seatOffers
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
	if cfg.RecoveryHold == 0 {
		cfg.RecoveryHold = timing.RecoveryHold
	}
	if cfg.HandoverHold == 0 {
		cfg.HandoverHold = timing.HandoverHold
	}
	if cfg.WaitForStart == 0 {
		cfg.WaitForStart = relay.WaitForStart
	}
	if cfg.PayloadBudget == 0 {
		cfg.PayloadBudget = DefaultPayloadBudget
	}
	if cfg.Metrics == nil {
		cfg.Metrics = noMetrics{}
	}
	store := cfg.Store
	cfg.Store = nil // each part has its port of it
	a := &Activities{
		cfg: cfg, claims: store, samples: store, batches: store, held: store, operations: store, asked: store, maintenance: store,
		budget: newBudget(cfg.PayloadBudget), ledger: newLedger(store), receipts: newReceipts(store, cfg.Metrics), routeWait: timing.RouteWait, paces: newPaces(cfg.Topics),
		sampler: sampler{by: rand.Text(), every: cfg.SampleEvery},
		holds:   holds{every: timing.HoldsEvery},
	}
	if s := cfg.Sharing; s != nil {
		a.carrier = newCarrier(a, carrierConfig{worker: s.Worker, name: s.Name, shares: s.Shares, reads: s.Reads, sender: s.Sender, waits: s.Waits, log: s.Log})
	}
	return a, nil
}
