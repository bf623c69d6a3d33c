package activities

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"github.com/temporal-outbox/relay/internal/relay"
)

var errAway = errors.New("database is away")

// noted is a failure that was kept with a topic.
type noted struct {
	paused string
	relay.Failure
	next time.Duration
}

// store has a fake for each port. What a real store does right is tested on PostgreSQL, in
// internal/postgres: these have faults that a real database produces only by accident.
type store struct {
	OperationStore // what the tests of operations put there
	AskStore       // and those of what is asked for
	claimFake
	sampleFake
	batchFake
	topicFake
	holdFake
	receiptFake
	maintenanceFake
}

// claimFake has what claims find.
type claimFake struct {
	claimMu   sync.Mutex
	claim     func(n int) ([]relay.Batch, error)
	asked     relay.ClaimRequest // the last one
	claims    int
	earlier   []relay.Batch
	leavesOut bool // topics without a route
}

// sampleFake has the state of topics.
type sampleFake struct {
	sampleMu sync.Mutex
	topics   func(n int) ([]relay.TopicState, error)
	samples  int
	turn     func(by string, every time.Duration) (taken bool, wait time.Duration, err error)
	waits    []time.Duration // for the next turn, of samples that took long
}

// topicFake is told of topics whose destination is broken.
type topicFake struct {
	topicMu sync.Mutex
	pauses  []string
	noted   []noted // failures
	noteErr error
}

// holdFake has topics that are held for a recovery.
type holdFake struct {
	holdMu    sync.Mutex
	holds     []relay.RecoveryHold
	holdsErr  error
	abandoned []string // with the claim, and whether no attempt is at work
}

// receiptFake keeps receipts.
type receiptFake struct {
	receiptMu   sync.Mutex
	receipts    []relay.Receipt
	receiptsErr func(ctx context.Context, receipts []relay.Receipt) error
}

// maintenanceFake has nothing to do.
type maintenanceFake struct {
	keeps          map[string]time.Duration
	maintenanceErr error // of receipts
}

// batchFake is pending events in memory.
type batchFake struct {
	mu       sync.Mutex
	pending  []relay.Event // ascending
	settled  []relay.Ref
	released map[int16]int64
	// overHeads counts calls of ReleaseClaim, which does not ask for the holder.
	overHeads int
	renewed   [][]int16
	loads     int
	filled    int64 // bytes of contents
	open      int   // most events in hand at a load
	readAt    time.Time
	reserved  func(published int) bool // reports whether an operation waits for a lane; nil: none does

	settleErr  func() error
	loadErr    func(n int) error
	fillErr    error
	renewErr   error
	highestErr error
	existsErr  error
	replaced   bool // by an earlier state, which has none of its events
	takeOverIs error
	pausedBy   string // an operator
	takingOver func(ctx context.Context) error

	dead          []relay.Outcome
	deadBy        string
	deadLetterErr error
	refusedFor    map[int64]time.Duration
	blocked       map[relay.Chain]int64

	probes   []relay.Probe
	probeErr error
	free     map[int16]int64 // lanes without a holder
	heads    bool            // pages and probes have the first event of each key only
}

func (s *claimFake) Claim(_ context.Context, r relay.ClaimRequest) ([]relay.Batch, error) {
	s.claimMu.Lock()
	defer s.claimMu.Unlock()
	s.claims++
	s.asked = r
	if s.claim == nil {
		return nil, nil
	}
	return s.claim(s.claims)
}

func (s *claimFake) Claimed(context.Context, string) ([]relay.Batch, error) { return s.earlier, nil }

func (s *claimFake) LeavesOut(context.Context, []string) (bool, error) { return s.leavesOut, nil }

func (s *batchFake) TakeOver(ctx context.Context, b relay.Batch) (relay.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.takingOver != nil {
		if err := s.takingOver(ctx); err != nil {
			return relay.Lease{}, err
		}
	}
	if s.takeOverIs != nil {
		return relay.Lease{}, s.takeOverIs
	}
	low := map[int16]int64{}
	for _, lane := range b.Lanes {
		low[lane] = 0
	}
	return relay.Lease{Topic: b.Topic, Holder: "h", LowID: low, PausedBy: s.pausedBy}, nil
}

func (s *batchFake) Page(_ context.Context, l relay.Lease, inHand []relay.Ref, events int) (relay.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	s.open = max(s.open, len(inHand))
	if s.loadErr != nil {
		if err := s.loadErr(s.loads); err != nil {
			return relay.Page{}, err
		}
	}
	page := relay.Page{At: s.readAt, Reserved: s.reserved != nil && s.reserved(len(s.settled))}
	perLane := max(1, events/len(l.LowID))
	keys := map[string]bool{}
	for _, lane := range slices.Sorted(maps.Keys(l.LowID)) {
		got := 0
		for _, e := range s.pending {
			if s.heads && keys[e.Key] {
				continue
			}
			keys[e.Key] = true
			if e.Lane == lane && got < perLane && (l.UpTo.ID == 0 || e.ID <= l.UpTo.ID) && !slices.Contains(inHand, e.Ref) {
				// Fill has its contents.
				page.Events = append(page.Events, relay.Event{Ref: e.Ref, CreatedAt: e.CreatedAt, Bytes: max(e.Bytes, int64(len(e.Payload)))})
				got++
			}
		}
		page.More = page.More || got == perLane
	}
	return page, nil
}

func (s *batchFake) Fill(_ context.Context, events []relay.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range events {
		at := slices.IndexFunc(s.pending, func(p relay.Event) bool { return p.Ref == e.Ref })
		if at >= 0 {
			events[i] = s.pending[at]
			events[i].Bytes = e.Bytes
		}
		s.filled += e.Bytes
	}
	return s.fillErr
}

func (s *batchFake) Exists(_ context.Context, r relay.Ref) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.replaced, s.existsErr
}

func (s *batchFake) Borrow(_ context.Context, _ relay.Batch, _ relay.Lease) (map[int16]int64, error) {
	return s.free, nil
}

func (s *batchFake) Probe(_ context.Context, l relay.Lease, inHand []relay.Ref, p relay.Probe) (probed relay.Probed, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probes = append(s.probes, p)
	if s.probeErr != nil {
		return probed, s.probeErr
	}
	var found []relay.Event
	for _, e := range s.pending {
		_, mine := l.LowID[e.Lane]
		if mine && !s.heads && (p.Newest || e.ID > p.After) && !slices.Contains(inHand, e.Ref) {
			found = append(found, e)
		}
	}
	if p.Newest {
		found = found[max(0, len(found)-p.Events):]
	} else if len(found) > p.Events {
		found = found[:p.Events]
	}
	probed.At, probed.Events = s.readAt, found
	if len(found) == p.Events {
		probed.Next = found[len(found)-1].ID
	}
	return probed, nil
}

func (s *batchFake) Highest(_ context.Context, l relay.Lease) (b relay.Bound, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.pending {
		if _, mine := l.LowID[e.Lane]; mine {
			b.ID = max(b.ID, e.ID)
		}
	}
	return b, s.highestErr
}

func (s *batchFake) Apart(context.Context) (settle func(context.Context, string, []relay.Ref) error, end func(), err error) {
	return s.Settle, func() {}, nil
}

func (s *batchFake) Settle(_ context.Context, _ string, done []relay.Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settleErr != nil && len(done) > 0 {
		if err := s.settleErr(); err != nil {
			return err
		}
	}
	s.settled = append(s.settled, done...)
	s.pending = slices.DeleteFunc(s.pending, func(e relay.Event) bool { return slices.Contains(done, e.Ref) })
	return nil
}

func (s *batchFake) Renew(_ context.Context, _ relay.Lease, lanes []int16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes = slices.Clone(lanes)
	slices.Sort(lanes)
	s.renewed = append(s.renewed, lanes)
	return s.renewErr
}

func (s *batchFake) Release(_ context.Context, _ relay.Lease, read relay.Read) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = maps.Clone(read.Next)
	return nil
}

func (s *batchFake) Keep(ctx context.Context, l relay.Lease, lanes []int16) error {
	return s.Renew(ctx, l, lanes)
}

func (s *batchFake) DeadLetter(_ context.Context, _ relay.Lease, workflowID string, dead []relay.Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadLetterErr != nil {
		return s.deadLetterErr
	}
	for _, d := range dead {
		s.dead = append(s.dead, d)
		s.deadBy = workflowID
		s.pending = slices.DeleteFunc(s.pending, func(e relay.Event) bool { return e.Ref == d.Ref })
	}
	return nil
}

func (s *batchFake) Refuse(_ context.Context, _ string, refused []relay.Outcome) (known []relay.Refusal, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range refused {
		known = append(known, relay.Refusal{Ref: o.Ref, For: s.refusedFor[o.ID]})
	}
	return known, nil
}

func (s *batchFake) Blocked(_ context.Context, _ string, keys []string) (map[relay.Chain]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	blocked := maps.Clone(s.blocked)
	maps.DeleteFunc(blocked, func(c relay.Chain, _ int64) bool { return !slices.Contains(keys, c.Key) })
	return blocked, nil
}

func (s *topicFake) HoldForRecovery(_ context.Context, topic, workflowID string, _ time.Duration) error {
	s.topicMu.Lock()
	defer s.topicMu.Unlock()
	s.pauses = append(s.pauses, topic+" by "+workflowID)
	return nil
}

func (s *topicFake) NoteFailure(_ context.Context, topic, workflowID string, f relay.Failure, next time.Duration) error {
	s.topicMu.Lock()
	defer s.topicMu.Unlock()
	s.noted = append(s.noted, noted{topic + " by " + workflowID, f, next})
	return s.noteErr
}

func (s *topicFake) EndRecoveryHold(context.Context, string, string) error { return nil }

func (s *holdFake) RecoveryHolds(_ context.Context, left time.Duration) (found []relay.RecoveryHold, err error) {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	for _, h := range s.holds {
		if time.Until(h.Until) > left {
			found = append(found, h)
		}
	}
	return found, s.holdsErr
}

func (s *holdFake) AbandonHold(_ context.Context, h relay.RecoveryHold, claimID string, noAttempt bool) (bool, error) {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	s.abandoned = append(s.abandoned, fmt.Sprintf("%s of %s: claim %q, %t", h.WorkflowID, h.Topic, claimID, noAttempt))
	s.holds = slices.DeleteFunc(s.holds, func(other relay.RecoveryHold) bool { return other == h })
	return true, nil
}

func (s *maintenanceFake) MakePartitions(context.Context, int, func()) (p relay.Partitions, err error) {
	return p, nil
}

func (s *maintenanceFake) DropPartitions(context.Context, int, func()) (p relay.Partitions, err error) {
	return p, nil
}

func (s *maintenanceFake) Shrink(context.Context) (bool, error) { return false, nil }

func (s *receiptFake) WriteReceipts(ctx context.Context, receipts []relay.Receipt) error {
	s.receiptMu.Lock()
	defer s.receiptMu.Unlock()
	if s.receiptsErr != nil {
		if err := s.receiptsErr(ctx, receipts); err != nil {
			return err
		}
	}
	s.receipts = append(s.receipts, receipts...)
	return nil
}

func (s *maintenanceFake) KeepReceipts(_ context.Context, topics map[string]time.Duration, _ int) (left []string, err error) {
	s.keeps = maps.Clone(topics)
	return nil, s.maintenanceErr
}

func (s *maintenanceFake) DropReceipts(context.Context) (left []string, err error) {
	return nil, s.maintenanceErr
}

func (s *maintenanceFake) Health(context.Context) (h relay.Health, err error) { return h, nil }

// TryAcquireSampling lets every worker sample, unless turn says otherwise.
func (s *sampleFake) TryAcquireSampling(_ context.Context, by string, every time.Duration) (taken bool, wait time.Duration, err error) {
	s.sampleMu.Lock()
	turn := s.turn
	s.sampleMu.Unlock()
	if turn == nil {
		return true, 0, nil
	}
	return turn(by, every)
}

func (s *sampleFake) DeferSampling(_ context.Context, _ string, wait time.Duration) error {
	s.sampleMu.Lock()
	defer s.sampleMu.Unlock()
	s.waits = append(s.waits, wait)
	return nil
}

// Topics is not under the lock: like a database, it may take its time.
func (s *sampleFake) Topics(context.Context) ([]relay.TopicState, error) {
	s.sampleMu.Lock()
	s.samples++
	n, topics := s.samples, s.topics
	s.sampleMu.Unlock()
	if topics == nil {
		return nil, nil
	}
	return topics(n)
}

func (s *sampleFake) setTopics(topics func(n int) ([]relay.TopicState, error)) {
	s.sampleMu.Lock()
	defer s.sampleMu.Unlock()
	s.topics = topics
}

func (s *sampleFake) sampled() int {
	s.sampleMu.Lock()
	defer s.sampleMu.Unlock()
	return s.samples
}

func (s *batchFake) ReleaseClaim(context.Context, relay.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overHeads++
	return nil
}

// away makes settlements fail, or succeed again.
func (s *batchFake) away(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settleErr = nil; away {
		s.settleErr = func() error { return errAway }
	}
}

func (s *batchFake) settledEvents() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.settled)
}

// releasedLanes are the lanes of the last release.
func (s *batchFake) releasedLanes() []int16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.released))
}

// fill makes n events pending, one lane after the other.
func (s *batchFake) fill(n int, lanes ...int16) {
	for i := range n {
		s.pending = append(s.pending, relay.Event{
			Ref:     relay.Ref{ID: int64(i + 1), Lane: lanes[i%len(lanes)], At: int64(1000 + i)},
			EventID: "e", Payload: "secret payload",
		})
	}
}

// publisher answers requests of ten events with what answer says.
type publisher struct {
	mu       sync.Mutex
	requests int
	sent     []relay.Ref
	answer   func(n int, e relay.Event) *relay.PublishError
	before   func(ctx context.Context, n int, r relay.PublishRequest) // each request
	hold     func(ctx context.Context)                                // the first
	err      error                                                    // of everything
	ordered  bool
	atOnce   bool            // all requests of a page leave before the first answer
	holds    bool            // as a FIFO destination: nothing is reported of events behind a refused one
	refused  map[string]bool // their keys
}

func (p *publisher) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	if p.hold != nil {
		p.hold(ctx)
	}
	if p.err != nil {
		<-r.Events
		return relay.PublishResult{}, p.err
	}
	for {
		select {
		case <-ctx.Done():
			return p.result(), relay.ErrStopped
		case page, ok := <-r.Events:
			if !ok {
				return p.result(), nil
			}
			arrived := time.Now()
			for chunk := range slices.Chunk(page, 10) {
				if p.request(ctx, r, arrived, chunk); ctx.Err() != nil {
					return p.result(), relay.ErrStopped
				}
			}
		}
	}
}

func (p *publisher) Destination(topic string) string { return "SQS queue " + topic + "-queue" }

func (p *publisher) Ordered(string) bool { return p.ordered }

func (p *publisher) request(ctx context.Context, r relay.PublishRequest, arrived time.Time, events []relay.Event) {
	if p.holds {
		events = events[:1] // of one key, each waits for the one before
		if p.refused[events[0].Key] {
			return
		}
		defer func() { p.refused = map[string]bool{events[0].Key: true} }()
	}
	p.mu.Lock()
	p.requests++
	n := p.requests
	p.mu.Unlock()
	if p.before != nil {
		p.before(ctx, n, r)
	}
	outcomes, sent := make([]relay.Outcome, len(events)), time.Now()
	if p.atOnce {
		sent = arrived
	}
	for i, e := range events {
		outcomes[i] = relay.Outcome{Ref: e.Ref, Sent: sent, MessageID: fmt.Sprint("message-", e.ID), Destination: "a queue"}
		if p.answer != nil {
			outcomes[i].Err = p.answer(n, e)
		}
		if outcomes[i].Err == nil {
			p.mu.Lock()
			p.sent = append(p.sent, e.Ref)
			p.mu.Unlock()
		}
	}
	r.Report(outcomes)
}

func (p *publisher) result() relay.PublishResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	return relay.PublishResult{Requests: p.requests}
}

// env is an environment for activities over the fakes.
type env struct {
	*testsuite.TestActivityEnvironment
	*Activities
	store     *store
	publisher *publisher
	// recoverFor replaces the time that a recovery's page has.
	recoverFor time.Duration
}

func newEnv(t *testing.T) *env {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	e := &env{
		TestActivityEnvironment: suite.NewTestActivityEnvironment(),
		store:                   &store{}, publisher: &publisher{},
	}
	var err error
	e.Activities, err = New(Config{Store: e.store, Publisher: e.publisher, PollEvery: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { // without another try
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_, _ = SettleRest(ended, e.Activities)
	})
	e.RegisterActivity(e.Activities)
	return e
}

func request(lanes ...int16) PublishRequest {
	return PublishRequest{
		Batch: relay.Batch{Topic: "orders", ClaimID: "c", Lanes: lanes}, Concurrency: 2, For: 5 * time.Second,
		RecoveryID: "outbox-recovery/orders",
	}
}

func (e *env) publish(t *testing.T, lanes ...int16) (r PublishResult, err error) {
	t.Helper()
	return e.publishAs(t, request(lanes...))
}

func (e *env) publishAs(t *testing.T, request PublishRequest) (r PublishResult, err error) {
	t.Helper()
	v, err := e.ExecuteActivity(e.PublishBatch, request)
	if err == nil {
		require.NoError(t, v.Get(&r))
	}
	return r, err
}
