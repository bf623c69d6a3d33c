package bench

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// planned is one event of a flow.
type planned struct {
	due   time.Duration // since the flow began
	topic int
	key   string
}

// every plans an event of each of the topics first to first+topics-1 in each interval, evenly
// spread over the interval, so that no two topics write at once.
func every(interval time.Duration, first, topics int, lasting time.Duration) []planned {
	var plan []planned
	for i := range topics {
		phase := interval * time.Duration(i) / time.Duration(topics)
		for due := phase; due < lasting; due += interval {
			plan = append(plan, planned{due: due, topic: first + i})
		}
	}
	return plan
}

// merged puts plans together in the order of their events, and gives each event that has no
// key one of its own.
func merged(plans ...[]planned) []planned {
	plan := slices.Concat(plans...)
	slices.SortStableFunc(plan, func(a, b planned) int { return int(a.due - b.due) })
	for i := range plan {
		if plan[i].key == "" {
			plan[i].key = fmt.Sprint("key-", i)
		}
	}
	return plan
}

// insertConnections is how many connections a flow commits with. A commit waits for the disk,
// and the commits of some connections share one wait.
const insertConnections = 8

// flow commits planned events, each in a transaction of its own.
type flow struct {
	fx    *fixture
	plan  []planned
	first int // number of the first event
	began time.Time
	made  []produced
	group *errgroup.Group
}

// flowInsertSQL takes less of the producer's time than the library that applications use: a
// flow does not measure inserts.
const flowInsertSQL = `
INSERT INTO outbox.event (topic, key, type, payload, attributes)
VALUES ($1, $2, 'BenchEvent', $3, '{"traceparent": "` + traceparent + `"}')`

// begin starts a flow. finish must be called. The events of a key are committed in order.
func (fx *fixture) begin(ctx context.Context, plan []planned) (*flow, error) {
	f := &flow{fx: fx, plan: plan, first: fx.inserted, made: make([]produced, len(plan))}
	fx.inserted += len(plan)
	parts := make([][]int, insertConnections)
	for i, e := range plan {
		h := fnv.New32a()
		_, _ = h.Write([]byte(e.key))
		n := h.Sum32() % insertConnections
		parts[n] = append(parts[n], i)
	}
	conns := make([]*pgx.Conn, insertConnections)
	for i := range conns {
		var err error
		if conns[i], err = pgx.Connect(ctx, fx.env.Get("DATABASE_URL")); err != nil {
			for _, opened := range conns[:i] {
				opened.Close(ctx)
			}
			return nil, fmt.Errorf("connect as a producer: %w", err)
		}
	}
	f.group, ctx = errgroup.WithContext(ctx)
	f.began = time.Now()
	for i, conn := range conns {
		f.group.Go(func() error {
			defer conn.Close(context.WithoutCancel(ctx))
			return f.produce(ctx, conn, parts[i])
		})
	}
	return f, nil
}

func (f *flow) produce(ctx context.Context, conn *pgx.Conn, events []int) error {
	rest := strings.Repeat("x", f.fx.payload)
	for _, i := range events {
		e := f.plan[i]
		if err := sleep(ctx, time.Until(f.began.Add(e.due))); err != nil {
			return err
		}
		payload := `{"marker":"` + marker(f.first+i) + `","pad":"`
		payload += rest[:f.fx.payload-2-len(payload)] + `"}`
		f.made[i].began = time.Now()
		if _, err := conn.Exec(ctx, flowInsertSQL, f.fx.topics[e.topic], e.key, payload); err != nil {
			return fmt.Errorf("commit an event: %w", err)
		}
		f.made[i].committed = time.Now()
	}
	return nil
}

// finish waits until all events are committed.
func (f *flow) finish() error { return f.group.Wait() }

// behind is the time by which the latest 1 % of the events were committed too late: the
// producer, or the database, did not keep up.
func (f *flow) behind() time.Duration {
	var late []time.Duration
	for i, e := range f.plan {
		late = append(late, f.made[i].began.Sub(f.began.Add(e.due)))
	}
	slices.Sort(late)
	return percentile(late, 0.99)
}

// delivered is one event of a flow with what became of it.
type delivered struct {
	planned
	published
	by int // the worker
}

// delivered asks the sink. Call it when the flow is finished.
func (f *flow) delivered(ctx context.Context) ([]delivered, error) {
	acks, err := f.fx.sink.Acks(ctx, f.first, len(f.plan))
	if err != nil {
		return nil, err
	}
	events := make([]delivered, len(f.plan))
	for i := range events {
		events[i] = delivered{f.plan[i], published{f.made[i].committed, acks[i].At}, acks[i].By}
	}
	return events, nil
}

// window is what happened during a part of a flow.
type window struct {
	from, to time.Time
	cpu      map[string]float64
	beats    int
}

func (w window) seconds() float64 { return w.to.Sub(w.from).Seconds() }

// watch waits for a part of the flow to pass.
func (f *flow) watch(ctx context.Context, from, to time.Duration) (window, error) {
	if err := sleep(ctx, time.Until(f.began.Add(from))); err != nil {
		return window{}, err
	}
	cpu, w := readCPU(), window{from: time.Now()}
	before, err := f.fx.heartbeats(ctx)
	if err != nil {
		return window{}, err
	}
	if err := sleep(ctx, time.Until(f.began.Add(to))); err != nil {
		return window{}, err
	}
	w.cpu, w.to = readCPU().since(cpu), time.Now()
	after, err := f.fx.heartbeats(ctx)
	w.beats = after - before
	return w, err
}

// heartbeats adds up those of the workers that run.
func (fx *fixture) heartbeats(ctx context.Context) (sum int, err error) {
	for _, w := range fx.workers() {
		if w.metrics == "" || w.alive() != nil {
			continue
		}
		c, err := readCounts(ctx, w.metrics)
		if err != nil {
			return 0, err
		}
		sum += c.heartbeats
	}
	return sum, nil
}

// startRelay starts so many workers and a run, and waits until an event of each topic has
// arrived: every connection is open and every destination is looked up then.
func (fx *fixture) startRelay(ctx context.Context, workers int) error {
	fx.say("  starting %d worker(s) for %d topics", workers, fx.topicCount)
	if err := fx.insert(ctx, fx.topicCount); err != nil {
		return err
	}
	if err := fx.settleDown(ctx); err != nil {
		return err
	}
	for range workers {
		if err := fx.addWorker(); err != nil {
			return err
		}
	}
	for _, w := range fx.others {
		if err := w.publishes(ctx); err != nil {
			return err
		}
	}
	if err := fx.resume(ctx); err != nil {
		return err
	}
	if err := fx.trigger(ctx); err != nil {
		return err
	}
	left, err := fx.arrive(ctx, fx.inserted, startPatience)
	if err == nil && left > 0 {
		err = fmt.Errorf("%d of the first %d events did not arrive; a worker says: %s", left, fx.inserted, fx.others[0].words())
	}
	return err
}

// addWorker launches one more worker. The sink knows it by its number, and its metrics are
// served.
func (fx *fixture) addWorker() error {
	metrics, err := freeAddress()
	if err != nil {
		return err
	}
	w, err := fx.launch("OUTBOX_HTTP_ADDRESS="+metrics, fmt.Sprint("AWS_SDK_UA_APP_ID=w", fx.launched))
	if err != nil {
		return err
	}
	w.number = fx.launched
	fx.launched++
	fx.others = append(fx.others, w)
	return nil
}

const (
	// startPatience is how long the first events of all topics may take.
	startPatience = 90 * time.Second
	// latePatience is how long the measurement waits for the events of a flow after its end.
	// An event that comes later counts as one that has waited until then.
	latePatience = 15 * time.Second
)

// arrive waits until n events have arrived, for so long at most, and returns how many are
// missing.
func (fx *fixture) arrive(ctx context.Context, n int, patience time.Duration) (missing int, err error) {
	for deadline := time.Now().Add(patience); ; {
		state, err := fx.sink.State(ctx)
		if err != nil || state.Accepted >= n || time.Now().After(deadline) {
			return max(0, n-state.Accepted), err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// waits are the times from commit to acknowledgement of the chosen events. An event that did
// not arrive has waited until now.
func waits(events []delivered, now time.Time, chosen func(delivered) bool) []time.Duration {
	var found []time.Duration
	for _, e := range events {
		if !chosen(e) {
			continue
		}
		acked := e.acked
		if acked.IsZero() {
			acked = now
		}
		found = append(found, max(0, acked.Sub(e.committed)))
	}
	return found
}

// lane is a lane of a topic.
type lane struct {
	topic string
	lane  int
}

// lanesOf asks the database for the lane of each event of a flow, by topic and key.
func (f *flow) lanesOf(ctx context.Context) (map[planned]lane, error) {
	rows, err := f.fx.pool.Query(ctx, `SELECT DISTINCT topic, key, lane FROM outbox.event`)
	if err != nil {
		return nil, fmt.Errorf("read the lanes of keys: %w", err)
	}
	byKey := map[[2]string]int{}
	var topic, key string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&topic, &key, &n}, func() error {
		byKey[[2]string{topic, key}] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the lanes of keys: %w", err)
	}
	found := map[planned]lane{}
	for _, e := range f.plan {
		topic := f.fx.topics[e.topic]
		found[e] = lane{topic, byKey[[2]string{topic, e.key}]}
	}
	return found, nil
}

// byLane sorts the events of a flow into lanes.
func byLane(events []delivered, lanes map[planned]lane) map[lane][]delivered {
	found := map[lane][]delivered{}
	for _, e := range events {
		found[lanes[e.planned]] = append(found[lanes[e.planned]], e)
	}
	return found
}

// publishedOf leaves out who published the events.
func publishedOf(events []delivered) []published {
	found := make([]published, len(events))
	for i, e := range events {
		found[i] = e.published
	}
	return found
}

const (
	// ownedFor is how long a worker must have published all events of a lane for the lane to
	// be its own.
	ownedFor = 5 * time.Second
	// sharedLane is the owner of lanes that several workers published lately: any of them may
	// hold the lane.
	sharedLane = -1
)

// ownerAt is the worker that had a lane at a moment, as far as the events show it. ok is false
// if none was published before.
func ownerAt(events []delivered, at time.Time) (by int, ok bool) {
	var latest time.Time
	for _, e := range events {
		if !e.acked.IsZero() && !e.acked.After(at) && e.acked.After(latest) {
			by, ok, latest = e.by, true, e.acked
		}
	}
	for _, e := range events {
		if e.by != by && !e.acked.After(at) && e.acked.After(at.Add(-ownedFor)) {
			return sharedLane, true
		}
	}
	return by, ok
}

// laneGaps finds the longest gap of a lane that ended between from and at, and the longest ones
// that ended later, by the worker that had the lane at that moment.
func laneGaps(events map[lane][]delivered, from, at time.Time) (before time.Duration, after map[int]time.Duration) {
	after = map[int]time.Duration{}
	for _, lane := range events {
		owner, owned := ownerAt(lane, at)
		for _, g := range gaps(publishedOf(lane)) {
			switch {
			case g.to.Before(from):
			case !g.to.After(at):
				before = max(before, g.length())
			case owned:
				after[owner] = max(after[owner], g.length())
			}
		}
	}
	return before, after
}
