package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/lab/bench/sink"
)

// awayDelay is a round trip to AWS from another place in its region.
const awayDelay = 15 * time.Millisecond

// sizes are how much the rows measure.
type sizes struct {
	lasting  time.Duration // a steady flow
	after    time.Duration // a flow goes on after a death
	delayed  int           // events of a drain at a delay
	payloads int           // bytes of all events of a drain with large payloads
	held     int           // events of a drain beside an open transaction
}

func sizesOf(full bool) sizes {
	s := sizes{lasting: 15 * time.Second, after: deathAfter, delayed: 150_000, payloads: 512 << 20, held: 100_000}
	if full {
		s.lasting, s.delayed, s.payloads, s.held = time.Minute, 500_000, 2<<30, 500_000
	}
	return s
}

// sinkFixture is a fixture on the own destination, with the SDK's clients of it.
func (m *measurement) sinkFixture(ctx context.Context, spec fixtureSpec) (fx *fixture, client bareClient, err error) {
	if spec.sink, err = m.ownSink(ctx); err != nil {
		return nil, client, err
	}
	if client, err = newBare(ctx, m.vars.With("AWS_ENDPOINT_URL="+spec.sink.URL)); err != nil {
		return nil, client, err
	}
	fx, err = m.newFixture(ctx, spec)
	return fx, client, err
}

// steadySpec is a flow of events over topics.
type steadySpec struct {
	part     Part
	topics   int
	interval time.Duration // between two events of a topic
	// busy topics have an interval of their own.
	busy         int
	busyInterval time.Duration
	// inserts measures the inserts alone too, to take their cost away.
	inserts bool
	// route is more of each topic in the file that routes the topics.
	route string
}

func (s steadySpec) plan(lasting time.Duration) []planned {
	return merged(every(s.busyInterval, 0, s.busy, lasting), every(s.interval, s.busy, s.topics-s.busy, lasting))
}

func (s steadySpec) perSecond() int {
	n := float64(s.topics-s.busy) / s.interval.Seconds()
	if s.busy > 0 {
		n += float64(s.busy) / s.busyInterval.Seconds()
	}
	return int(math.Round(n))
}

// steady measures latencies of a flow, from the return of a commit to the destination's answer,
// and what the flow costs.
func (m *measurement) steady(ctx context.Context, s steadySpec) (sample, error) {
	fx, client, err := m.sinkFixture(ctx, fixtureSpec{name: string(s.part), topicCount: s.topics})
	if err != nil {
		return nil, err
	}
	defer fx.close()
	if err := fx.route(s.route); err != nil {
		return nil, err
	}
	out, lasting := sample{}, m.size.lasting
	insertCores := 0.0
	if s.inserts {
		m.say("  the inserts alone")
		_, w, err := fx.run(ctx, s.plan(warmUp+lasting/2), warmUp, warmUp+lasting/2)
		if err != nil {
			return nil, err
		}
		insertCores = cpuOf(w.cpu, "postgres") / w.seconds()
		out["inserts_cores"] = round(insertCores, 3)
	}
	if err := fx.startRelay(ctx, 1); err != nil {
		return nil, err
	}
	warm := max(2*warmUp, s.interval+warmUp)
	m.say("  %d events/s over %d topics, for %s after %s to warm up", s.perSecond(), s.topics, lasting, warm)
	f, w, err := fx.run(ctx, s.plan(warm+lasting), warm, warm+lasting)
	if err != nil {
		return nil, err
	}
	if err := fx.account(ctx, out, f, w); err != nil {
		return nil, err
	}
	events, err := f.delivered(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, kind := range []struct {
		prefix string
		chosen func(delivered) bool
	}{
		{"", func(delivered) bool { return s.busy == 0 }},
		{"busy_", func(e delivered) bool { return e.topic < s.busy }},
		{"quiet_", func(e delivered) bool { return s.busy > 0 && e.topic >= s.busy }},
	} {
		found := waits(events, now, func(e delivered) bool { return e.due >= warm && kind.chosen(e) })
		if len(found) > 0 {
			p := percentiles(found)
			out[kind.prefix+"p50_ms"], out[kind.prefix+"p99_ms"] = p.P50, p.P99
			m.say("  %scommit to acknowledged: p50 %.1f ms, p99 %.1f ms", kind.prefix, p.P50, p.P99)
		}
	}
	if err := fx.stop(ctx); err != nil {
		return nil, err
	}
	done, err := m.work(ctx, w.from, w.to)
	if err != nil {
		return nil, err
	}
	out["activities_per_minute"] = round(float64(done.activities)*60/w.seconds(), 1)
	out["per_minute"] = round(float64(done.activities+w.beats)*60/w.seconds(), 1)
	bare, err := m.bare(ctx, client, bareSpec{
		addresses: fx.queues, entries: 1, events: s.perSecond() * int(min(lasting, 15*time.Second).Seconds()), perSecond: s.perSecond(),
	})
	if err != nil {
		return nil, err
	}
	p := percentiles(bare.waits)
	out["bare_p50_ms"], out["bare_p99_ms"] = p.P50, p.P99
	if s.inserts {
		cores := cpuOf(w.cpu, "worker", "postgres", "temporal")/w.seconds() - insertCores
		out[ratioName] = by(cores, bare.CPUSeconds["bench"]/(float64(len(bare.waits))/float64(s.perSecond())))
		return out, nil
	}
	p50, ok := out["p50_ms"]
	if !ok {
		p50 = out["busy_p50_ms"]
	}
	out[ratioName] = by(p50, p.P50)
	return out, nil
}

// run runs a flow to its end and watches a part of it.
func (fx *fixture) run(ctx context.Context, plan []planned, from, to time.Duration) (*flow, window, error) {
	f, err := fx.begin(ctx, plan)
	if err != nil {
		return nil, window{}, err
	}
	w, err := f.watch(ctx, from, to)
	return f, w, errors.Join(err, f.finish())
}

// account waits for the flow's events and notes what became of them and what they cost.
func (fx *fixture) account(ctx context.Context, out sample, f *flow, w window) error {
	missing, err := fx.arrive(ctx, fx.inserted, latePatience)
	if err != nil {
		return err
	}
	state, err := fx.sink.State(ctx)
	if err != nil {
		return err
	}
	out["missing"], out["repeated"] = float64(missing), float64(state.Again)
	out["requests_per_1000"] = round(1000*float64(state.Requests)/float64(max(1, state.Accepted)), 0)
	out["late_inserts_ms"] = millis(f.behind())
	if len(w.cpu) > 0 {
		out["relay_cores"] = round(cpuOf(w.cpu, "worker", "postgres", "temporal")/w.seconds(), 3)
		out["destination_cores"] = round(cpuOf(w.cpu, "sink")/w.seconds(), 3)
		out["other_cores"] = round(w.cpu["other"]/w.seconds(), 3)
	}
	return nil
}

// drain measures the drain against the emulator, between two measurements of its ceiling, and
// the home-made poller.
func (m *measurement) drain(ctx context.Context) (sample, error) {
	// The first requests warm the emulator's compiler up.
	if _, err := m.ceiling(ctx, m.Events/5); err != nil {
		return nil, err
	}
	before, err := m.ceiling(ctx, m.Events)
	if err != nil {
		return nil, err
	}
	result, err := m.plain(ctx)
	if err != nil {
		return nil, err
	}
	after, err := m.ceiling(ctx, m.Events)
	if err != nil {
		return nil, err
	}
	m.report.Ceilings = append(m.report.Ceilings, before, after)
	fx, err := m.newFixture(ctx, fixtureSpec{name: "poller"})
	if err != nil {
		return nil, err
	}
	defer fx.close()
	poller, err := fx.pollerDrain(ctx, bareClient{sqs: m.sqs}, m.Events)
	if err != nil {
		return nil, err
	}
	out := m.compared(result, poller, m.Events, before, after)
	out["activities_per_1000"] = result.ActivitiesPer1000
	return out, nil
}

// sinkDrain is the same with the own destination.
func (m *measurement) sinkDrain(ctx context.Context) (sample, error) {
	fx, client, err := m.sinkFixture(ctx, fixtureSpec{name: "sink"})
	if err != nil {
		return nil, err
	}
	defer fx.close()
	spec := bareSpec{addresses: fx.queues, events: m.Events}
	before, err := m.bare(ctx, client, spec)
	if err != nil {
		return nil, err
	}
	result, err := fx.drain(ctx, m.Events)
	if err != nil {
		return nil, err
	}
	after, err := m.bare(ctx, client, spec)
	if err != nil {
		return nil, err
	}
	poller, err := fx.pollerDrain(ctx, client, m.Events)
	if err != nil {
		return nil, err
	}
	return m.compared(result, poller, m.Events, before.CeilingResult, after.CeilingResult), nil
}

// compared is a drain beside the bare SDK and the poller.
func (m *measurement) compared(result, poller DrainResult, bareEvents int, bare ...CeilingResult) sample {
	out, sum, used := sample{}, 0.0, 0.0
	for _, b := range bare {
		sum += b.EventsPerSecond
		used += cpuOf(b.CPUSeconds, "bench")
	}
	ceiling := round(sum/float64(len(bare)), 1)
	out["events_per_second"], out["bare_events_per_second"] = result.EventsPerSecond, ceiling
	out[ratioName] = by(result.EventsPerSecond, ceiling)
	out.cost(result)
	if used > 0 {
		out["bare_us"] = micros(used, bareEvents*len(bare))
	}
	text := fmt.Sprintf("  %.2f of the bare SDK", out[ratioName])
	if poller.Events > 0 {
		out["poller_events_per_second"], out["of_poller"] = poller.EventsPerSecond, by(result.EventsPerSecond, poller.EventsPerSecond)
		if len(poller.CPUSeconds) > 0 {
			out["poller_us"] = micros(cpuOf(poller.CPUSeconds, "bench"), poller.Events)
			out["poller_postgres_us"] = micros(cpuOf(poller.CPUSeconds, "postgres"), poller.Events)
		}
		text += fmt.Sprintf(", %.2f of the home-made poller", out["of_poller"])
	}
	m.say("%s", text)
	return out
}

// delayed drains into a destination that answers after awayDelay, between the bare SDK with 16
// and with 64 requests.
func (m *measurement) delayed(ctx context.Context, spec fixtureSpec) (sample, error) {
	fx, client, err := m.sinkFixture(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer fx.close()
	if err := fx.sink.Behave(ctx, "", sink.Behaviour{Delay: awayDelay}); err != nil {
		return nil, err
	}
	bare := bareSpec{addresses: fx.queues, sns: spec.sns, events: m.size.delayed / 3}
	if spec.fifo {
		bare.keys = fx.keys
	}
	few, err := m.bare(ctx, client, bare)
	if err != nil {
		return nil, err
	}
	result, err := fx.drain(ctx, m.size.delayed)
	if err != nil {
		return nil, err
	}
	bare.requests, bare.events = 4*requestsOfOneTopic, m.size.delayed
	many, err := m.bare(ctx, client, bare)
	if err != nil {
		return nil, err
	}
	out := m.compared(result, DrainResult{}, bare.events, many.CeilingResult)
	delete(out, "bare_events_per_second")
	out["bare_16_events_per_second"], out["bare_64_events_per_second"] = few.EventsPerSecond, many.EventsPerSecond
	out["of_bare_16"], out["in_flight"] = by(result.EventsPerSecond, few.EventsPerSecond), float64(result.InFlight)
	return out, nil
}

// payload drains large events over topics.
func payload(bytes, topics int) func(*measurement, context.Context) (sample, error) {
	return func(m *measurement, ctx context.Context) (sample, error) {
		fx, client, err := m.sinkFixture(ctx, fixtureSpec{name: fmt.Sprintf("payload%dx%d", bytes>>10, topics), payload: bytes, topicCount: topics})
		if err != nil {
			return nil, err
		}
		defer fx.close()
		bare := bareSpec{addresses: fx.queues, payload: bytes, events: m.size.payloads / bytes}
		before, err := m.bare(ctx, client, bare)
		if err != nil {
			return nil, err
		}
		result, err := fx.drain(ctx, bare.events)
		if err != nil {
			return nil, err
		}
		after, err := m.bare(ctx, client, bare)
		if err != nil {
			return nil, err
		}
		poller, err := fx.pollerDrain(ctx, client, bare.events)
		if err != nil {
			return nil, err
		}
		out := m.compared(result, poller, bare.events, before.CeilingResult, after.CeilingResult)
		out["peak_mib"] = result.PeakMiB
		m.say("  the worker had %.0f MiB at most", result.PeakMiB)
		return out, nil
	}
}

const (
	otherKeys   = 500 // beside the hot one
	otherEvery  = 2500 * time.Millisecond
	hotEvery    = time.Second / 150
	hotName     = "hot"
	hotPatience = 2 * time.Second
)

// hotKey measures the other keys of a FIFO queue, without a key that gets more events than it
// can publish, and with it.
func (m *measurement) hotKey(ctx context.Context) (sample, error) {
	fx, _, err := m.sinkFixture(ctx, fixtureSpec{name: "hotkey", fifo: true})
	if err != nil {
		return nil, err
	}
	defer fx.close()
	if err := fx.sink.Behave(ctx, "", sink.Behaviour{Delay: awayDelay}); err != nil {
		return nil, err
	}
	if err := fx.startRelay(ctx, 1); err != nil {
		return nil, err
	}
	lasting := m.size.lasting
	others := func() []planned {
		plan := every(otherEvery, 0, otherKeys, 2*warmUp+lasting)
		for i := range plan {
			plan[i].key, plan[i].topic = fmt.Sprint("key-", plan[i].topic), 0
		}
		return plan
	}
	m.say("  other keys alone, for %s", lasting)
	f, _, err := fx.run(ctx, merged(others()), 2*warmUp, 2*warmUp+lasting)
	if err != nil {
		return nil, err
	}
	if _, err := fx.arrive(ctx, fx.inserted, latePatience); err != nil {
		return nil, err
	}
	events, err := f.delivered(ctx)
	if err != nil {
		return nil, err
	}
	measured := func(e delivered) bool { return e.due >= 2*warmUp && e.key != hotName }
	without := percentiles(waits(events, time.Now(), measured))
	m.say("  p50 %.1f ms, p99 %.1f ms; now with the hot key", without.P50, without.P99)
	hot := every(hotEvery, 0, 1, 2*warmUp+lasting)
	for i := range hot {
		hot[i].key = hotName
	}
	f, w, err := fx.run(ctx, merged(others(), hot), 2*warmUp, 2*warmUp+lasting)
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, hotPatience); err != nil {
		return nil, err
	}
	now := time.Now()
	if events, err = f.delivered(ctx); err != nil {
		return nil, err
	}
	lanes, err := f.lanesOf(ctx)
	if err != nil {
		return nil, err
	}
	hotLane := lanes[hot[0]]
	same := percentiles(waits(events, now, func(e delivered) bool { return measured(e) && lanes[e.planned] == hotLane }))
	other := percentiles(waits(events, now, func(e delivered) bool { return measured(e) && lanes[e.planned] != hotLane }))
	m.say("  its lane: p50 %.1f ms, p99 %.1f ms; the other lanes: p50 %.1f ms, p99 %.1f ms", same.P50, same.P99, other.P50, other.P99)
	published := 0
	for _, e := range events {
		if e.key == hotName && e.acked.After(w.from) && e.acked.Before(w.to) {
			published++
		}
	}
	return sample{
		"lane_p50_ms": same.P50, "lane_p99_ms": same.P99, "others_p50_ms": other.P50, "others_p99_ms": other.P99,
		"without_p50_ms": without.P50, "without_p99_ms": without.P99, ratioName: by(other.P50, without.P50),
		"hot_per_second": round(float64(published)/w.seconds(), 1),
	}, nil
}

const (
	// The flow while workers die: so many topics, each with an event in each interval.
	deathTopics   = 20
	deathInterval = time.Second / 20
	// deathAfter is how long the flow goes on after a death: longer than the lease of a claim,
	// Temporal's heartbeat timeout, and the time of a workflow task.
	deathAfter = 25 * time.Second
)

// deaths runs a flow, calls die in the middle, and compares the gaps before and after.
func (m *measurement) deaths(ctx context.Context, name string, workers int, die func(*fixture, []sink.Ack) error) (sample, map[int]time.Duration, error) {
	fx, _, err := m.sinkFixture(ctx, fixtureSpec{name: name, topicCount: deathTopics})
	if err != nil {
		return nil, nil, err
	}
	defer fx.close()
	if err := fx.startRelay(ctx, workers); err != nil {
		return nil, nil, err
	}
	m.say("  %d events/s over %d topics", int(deathTopics/deathInterval.Seconds()), deathTopics)
	f, err := fx.begin(ctx, merged(every(deathInterval, 0, deathTopics, 2*warmUp+m.size.lasting/2+m.size.after)))
	if err != nil {
		return nil, nil, err
	}
	at, err := f.interrupt(ctx, 2*warmUp+m.size.lasting/2, die)
	if err := errors.Join(err, f.finish()); err != nil {
		return nil, nil, err
	}
	missing, err := fx.arrive(ctx, fx.inserted, latePatience)
	if err != nil {
		return nil, nil, err
	}
	state, err := fx.sink.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	events, err := f.delivered(ctx)
	if err != nil {
		return nil, nil, err
	}
	lanes, err := f.lanesOf(ctx)
	if err != nil {
		return nil, nil, err
	}
	before, after := laneGaps(byLane(events, lanes), f.began.Add(2*warmUp), at)
	return sample{
		"before_gap_ms": millis(before), "all_gap_ms": millis(longest(gaps(publishedOf(events)), at, time.Time{}).length()),
		"repeated": float64(state.Again), "missing": float64(missing),
	}, after, nil
}

// interrupt calls die at a moment of the flow.
func (f *flow) interrupt(ctx context.Context, after time.Duration, die func(*fixture, []sink.Ack) error) (at time.Time, err error) {
	if err := sleep(ctx, time.Until(f.began.Add(after))); err != nil {
		return at, err
	}
	acks, err := f.fx.sink.Acks(ctx, f.first, len(f.plan))
	if err != nil {
		return at, err
	}
	at = time.Now()
	return at, die(f.fx, acks)
}

// kill kills the one of two workers that has published something most lately.
func (m *measurement) kill(ctx context.Context) (sample, error) {
	dead := 0
	out, gaps, err := m.deaths(ctx, "kill", 2, func(fx *fixture, acks []sink.Ack) error {
		latest := time.Time{}
		for _, ack := range acks {
			if ack.At.After(latest) {
				latest, dead = ack.At, ack.By
			}
		}
		for i, w := range fx.others {
			if w.number == dead {
				m.say("  killing worker %d", dead)
				w.kill()
				fx.others = append(fx.others[:i:i], fx.others[i+1:]...)
				return nil
			}
		}
		return fmt.Errorf("no worker has number %d", dead)
	})
	if err != nil {
		return nil, err
	}
	alive, living := time.Duration(0), false
	for by, gap := range gaps {
		if by != dead && by != sharedLane {
			alive, living = max(alive, gap), true
		}
	}
	if living {
		out["alive_gap_ms"] = millis(alive)
		out[ratioName] = by(millis(alive), out["before_gap_ms"])
	} else {
		m.noteOnce("kill: no lane was the living worker's alone")
	}
	out["dead_gap_ms"] = millis(max(gaps[dead], gaps[sharedLane]))
	m.say("  longest gaps: of a lane of the living worker %.0f ms, of the others %.0f ms, of everything %.0f ms",
		out["alive_gap_ms"], out["dead_gap_ms"], out["all_gap_ms"])
	return out, nil
}

// replace stops four workers while two start.
func (m *measurement) replace(ctx context.Context) (sample, error) {
	out, gaps, err := m.deaths(ctx, "replace", 4, func(fx *fixture, _ []sink.Ack) error {
		old := fx.others
		fx.others = nil
		m.say("  stopping four workers and starting two")
		for range 2 {
			if err := fx.addWorker(); err != nil {
				fx.others = append(fx.others, old...)
				return err
			}
		}
		return terminate(old...)
	})
	if err != nil {
		return nil, err
	}
	most := time.Duration(0)
	for _, gap := range gaps {
		most = max(most, gap)
	}
	out["lane_gap_ms"] = millis(most)
	out[ratioName] = by(millis(most), out["before_gap_ms"])
	m.say("  longest gaps: of a lane %s, of everything %.0f ms", most.Round(time.Millisecond), out["all_gap_ms"])
	return out, nil
}

// held drains under an open reader and under an open writer of another table, between two drains without
// a transaction. All are second drains, so that they differ by the transaction only: what the first drain
// settled is still in the tables, unless vacuum was there.
func (m *measurement) held(ctx context.Context, topics int) (sample, error) {
	n := m.size.held
	drain := func(name, sql string) (DrainResult, error) {
		fx, _, err := m.sinkFixture(ctx, fixtureSpec{name: name, topicCount: topics})
		if err != nil {
			return DrainResult{}, err
		}
		defer fx.close()
		if sql != "" {
			tx, err := fx.hold(ctx, sql)
			if err != nil {
				return DrainResult{}, err
			}
			defer tx.Rollback(context.WithoutCancel(ctx))
		}
		if _, err := fx.drain(ctx, n); err != nil {
			return DrainResult{}, err
		}
		return fx.drain(ctx, n)
	}
	out := sample{}
	var plain, plainCost float64
	const plains = 2
	for i, d := range []struct{ name, sql string }{
		{"plain", ""}, {"reader", openTransactions[0].sql}, {"writer", openTransactions[1].sql}, {"plain", ""},
	} {
		m.say("  drain %d of 4: %s", i+1, d.name)
		result, err := drain(d.name, d.sql)
		if err != nil {
			return nil, err
		}
		cost := micros(cpuOf(result.CPUSeconds, "postgres"), result.Events)
		if d.sql == "" {
			plain += result.EventsPerSecond / plains
			plainCost += cost / plains
			continue
		}
		out[d.name+"_of_plain"], out[d.name+"_postgres_us"] = result.EventsPerSecond, cost
	}
	out["plain_events_per_second"], out["plain_postgres_us"] = round(plain, 1), round(plainCost, 1)
	out["reader_of_plain"], out["writer_of_plain"] = by(out["reader_of_plain"], plain), by(out["writer_of_plain"], plain)
	out[ratioName] = min(out["reader_of_plain"], out["writer_of_plain"])
	m.say("  with a reader %.2f of the plain drain, with a writer %.2f", out["reader_of_plain"], out["writer_of_plain"])
	return out, nil
}

// hold opens a transaction that runs sql. What is settled meanwhile stays in the tables, because the
// transaction keeps vacuum from it.
func (fx *fixture) hold(ctx context.Context, sql string) (pgx.Tx, error) {
	tx, err := fx.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, fmt.Errorf("hold a transaction open: %w", err)
	}
	if _, err := tx.Exec(ctx, sql); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("hold a transaction open: %w", err)
	}
	return tx, nil
}

const (
	// fewPending is a backlog that costs nothing to find.
	fewPending = 1000
	// awayFor is how long the destination refuses everything before it is back. The relay's
	// pauses grow meanwhile, so the result also depends on the moment within a pause.
	awayFor = 5 * time.Second
)

// backlog measures the time to the first event after the destination is back.
func (m *measurement) backlog(ctx context.Context) (sample, error) {
	few, err := m.firstBack(ctx, fewPending)
	if err != nil {
		return nil, err
	}
	many, err := m.firstBack(ctx, m.Pending)
	if err != nil {
		return nil, err
	}
	return sample{
		"few_first_ms": millis(few), "first_ms": millis(many), "pending": float64(m.Pending), ratioName: by(millis(many), millis(few)),
	}, nil
}

// firstBack starts a relay on pending events while the destination refuses everything.
func (m *measurement) firstBack(ctx context.Context, pending int) (time.Duration, error) {
	fx, _, err := m.sinkFixture(ctx, fixtureSpec{name: "backlog"})
	if err != nil {
		return 0, err
	}
	defer fx.close()
	if err := fx.sink.Behave(ctx, "", sink.Behaviour{Refuse: true}); err != nil {
		return 0, err
	}
	m.say("  inserting %d events", pending)
	if err := fx.insert(ctx, pending); err != nil {
		return 0, err
	}
	if err := fx.settleDown(ctx); err != nil {
		return 0, err
	}
	if err := fx.startWorker(ctx); err != nil {
		return 0, err
	}
	if err := fx.resume(ctx); err != nil {
		return 0, err
	}
	if err := fx.trigger(ctx); err != nil {
		return 0, err
	}
	if err := fx.refused(ctx); err != nil {
		return 0, err
	}
	if err := sleep(ctx, awayFor); err != nil {
		return 0, err
	}
	if err := fx.sink.Reset(ctx, eventsOfSink); err != nil {
		return 0, err
	}
	back := time.Now()
	if err := fx.sink.Behave(ctx, "", sink.Behaviour{}); err != nil {
		return 0, err
	}
	if missing, err := fx.arrive(ctx, 1, 2*time.Minute); err != nil || missing > 0 {
		return 0, errors.Join(err, errors.New("nothing arrived after the destination was back"))
	}
	state, err := fx.sink.State(ctx)
	if err != nil {
		return 0, err
	}
	first := max(0, state.First.Sub(back))
	m.say("  with %d pending, the first event came after %s", pending, first.Round(time.Millisecond))
	return first, nil
}

// refused waits until the destination has refused something.
func (fx *fixture) refused(ctx context.Context) error {
	for deadline := time.Now().Add(startPatience); ; {
		state, err := fx.sink.State(ctx)
		if err != nil || state.Refused > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the destination was not asked; the worker says: %s", fx.worker.words())
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}
