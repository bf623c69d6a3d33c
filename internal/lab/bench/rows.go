package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rowPlan says how a row is measured.
type rowPlan struct {
	part    Part
	measure string
	ratioOf string
	figures []figure
	run     func(*measurement, context.Context) (sample, error)
}

// unaffected is the longest gap, in milliseconds, of lanes to which nothing happens.
const unaffected = 500

// repeatedByDeath is how many events may arrive again for each worker that was killed.
const repeatedByDeath = 1000

// latencyFigures are those of a steady flow, with the goals for the median and the 99th
// percentile.
func latencyFigures(p50, p99 float64, more ...figure) []figure {
	return append([]figure{
		{"p50_ms", "commit to acknowledged, p50, ms", atMost(p50)},
		{"p99_ms", "commit to acknowledged, p99, ms", atMost(p99)},
		{"bare_p50_ms", "a bare request with one entry, p50, ms", goal{}},
		{"bare_p99_ms", "a bare request with one entry, p99, ms", goal{}},
	}, append(more, commonFigures...)...)
}

// commonFigures are those of all steady flows.
// otherCores says how much of a figure may be the fault of other programs.
var otherCores = figure{"other_cores", "processors in use by other programs", goal{}}

var commonFigures = []figure{
	{"per_minute", "activities and heartbeats a minute for each worker", atMost(20)},
	{"activities_per_minute", "activities among them", goal{}},
	{"relay_cores", "processors in use by worker, PostgreSQL and Temporal, with the inserts", goal{}},
	{"destination_cores", "processors in use by the destination", goal{}},
	otherCores,
	{"late_inserts_ms", "lateness of the inserts, p99, ms", goal{}},
	{"missing", "events that did not arrive in time", goal{}},
	{"repeated", "events that arrived again", goal{}},
}

// requestsFigure says how well a flow fills its requests.
func requestsFigure(g goal) figure {
	return figure{"requests_per_1000", "requests for 1,000 events", g}
}

// costFigures are processor times of a drain.
func costFigures(postgres, worker goal) []figure {
	return []figure{
		{"postgres_us", "PostgreSQL, µs an event", postgres},
		{"worker_us", "worker, µs an event", worker},
		{"destination_us", "destination, µs an event", goal{}},
		{"bare_us", "bare SDK, µs an event", goal{}},
	}
}

// pollerFigures are processor times of a drain by the home-made poller.
var pollerFigures = []figure{
	{"poller_us", "home-made poller, µs an event", goal{}},
	{"poller_postgres_us", "PostgreSQL for the poller, µs an event", goal{}},
}

func drainFigures(ofBare, ofPoller, postgres, worker goal) []figure {
	return append([]figure{
		{ratioName, "", ofBare},
		{"of_poller", "of the home-made poller", ofPoller},
		{"events_per_second", "events/s", goal{}},
		{"bare_events_per_second", "bare SDK, events/s", goal{}},
		{"poller_events_per_second", "home-made poller, events/s", goal{}},
	}, slices.Concat(costFigures(postgres, worker), pollerFigures, []figure{{"activities_per_1000", "activities for 1,000 events", goal{}}, otherCores})...)
}

var delayFigures = append([]figure{
	{ratioName, "", atLeast(0.8)},
	{"of_bare_16", "of the bare SDK with 16 requests", atLeast(0.95)},
	{"events_per_second", "events/s", goal{}},
	{"bare_16_events_per_second", "bare SDK with 16 requests, events/s", goal{}},
	{"bare_64_events_per_second", "bare SDK with 64 requests, events/s", goal{}},
	{"in_flight", "requests at once, at most", goal{}},
}, append(costFigures(goal{}, goal{}), otherCores)...)

var payloadFigures = append([]figure{
	{ratioName, "", atLeast(0.85)},
	{"peak_mib", "peak memory of the worker, MiB", atMost(200)},
	{"of_poller", "of the home-made poller", goal{}},
	{"events_per_second", "events/s", goal{}},
	{"bare_events_per_second", "bare SDK, events/s", goal{}},
	{"poller_events_per_second", "home-made poller, events/s", goal{}},
}, slices.Concat(costFigures(goal{}, goal{}), pollerFigures, []figure{otherCores})...)

var heldFigures = []figure{
	{"reader_of_plain", "with a reader held open, of the plain drain", atLeast(0.95)},
	{"writer_of_plain", "with a writer of another table held open, of the plain drain", atLeast(0.95)},
	{"plain_events_per_second", "plain drain, events/s", goal{}},
	{"reader_postgres_us", "PostgreSQL with the reader, µs an event", goal{}},
	{"writer_postgres_us", "PostgreSQL with the writer, µs an event", goal{}},
	{"plain_postgres_us", "PostgreSQL in the plain drain, µs an event", goal{}},
	{ratioName, "", goal{}},
}

const (
	ofBare       = "of the bare SDK with 16 requests"
	ofBare64     = "of the bare SDK with 64 requests"
	ofBareMedian = "p50 by that of a bare request"
)

// rowPlans are the rows of the table, in its order. Each goal is that of the table.
var rowPlans = []rowPlan{
	{
		Topic1, "one topic at 100 events/s", ofBareMedian, latencyFigures(6, 14, requestsFigure(goal{}), figure{ratioName, "", goal{}}),
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.steady(ctx, steadySpec{part: Topic1, topics: 1, interval: time.Second / 100})
		},
	},
	{
		Fill, "one topic with fill: 30ms at 100 events/s", ofBareMedian,
		append([]figure{
			{"p50_ms", "commit to acknowledged, p50, ms", atMost(25)},
			{"p99_ms", "commit to acknowledged, p99, ms", goal{}},
			requestsFigure(atMost(260)),
			{"bare_p50_ms", "a bare request with one entry, p50, ms", goal{}},
			{ratioName, "", goal{}},
		}, commonFigures...),
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.steady(ctx, steadySpec{part: Fill, topics: 1, interval: time.Second / 100, route: ", fill: 30ms"})
		},
	},
	{
		Topics20, "20 topics at 20 events/s each", ofBareMedian, latencyFigures(15, 60, figure{ratioName, "", goal{}}),
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.steady(ctx, steadySpec{part: Topics20, topics: 20, interval: time.Second / 20})
		},
	},
	{
		Topics50, "50 topics at 20 events/s each", "processor time by that of bare requests with one entry each",
		latencyFigures(20, 80, figure{ratioName, "", atMost(1.5)}, figure{"inserts_cores", "processors in use by PostgreSQL for the inserts alone", goal{}}),
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.steady(ctx, steadySpec{part: Topics50, topics: 50, interval: time.Second / 20, inserts: true})
		},
	},
	{
		Topics200, "200 topics, an event each 5 s", ofBareMedian, latencyFigures(25, 100, figure{ratioName, "", goal{}}),
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.steady(ctx, steadySpec{part: Topics200, topics: 200, interval: 5 * time.Second})
		},
	},
	{
		Topics1000, "1,000 topics, an event each 5 s; 20 of them busy at 50/s", ofBareMedian, append([]figure{
			{"quiet_p50_ms", "980 quiet topics, p50, ms", atMost(50)},
			{"quiet_p99_ms", "980 quiet topics, p99, ms", atMost(250)},
			{"busy_p50_ms", "20 busy topics, p50, ms", atMost(50)},
			{"busy_p99_ms", "20 busy topics, p99, ms", atMost(250)},
			{"bare_p50_ms", "a bare request with one entry, p50, ms", goal{}},
			{"bare_p99_ms", "a bare request with one entry, p99, ms", goal{}},
			{ratioName, "", goal{}},
		}, commonFigures...),
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.steady(ctx, steadySpec{part: Topics1000, topics: 1000, interval: 5 * time.Second, busy: 20, busyInterval: time.Second / 50})
		},
	},
	{
		Drain, "drain, one topic, emulator", ofBare, drainFigures(atLeast(0.77), atLeast(1.1), atMost(20), atMost(45)),
		(*measurement).drain,
	},
	{
		Sink, "drain, one topic, the benchmark's own destination", ofBare, drainFigures(goal{}, goal{}, goal{}, goal{}),
		(*measurement).sinkDrain,
	},
	{
		DelaySQS, "drain at 15 ms, SQS", ofBare64, delayFigures,
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.delayed(ctx, fixtureSpec{name: "delay-sqs"})
		},
	},
	{
		DelaySNS, "drain at 15 ms, SNS", ofBare64, delayFigures,
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.delayed(ctx, fixtureSpec{name: "delay-sns", sns: true})
		},
	},
	{
		DelayFIFO, "drain at 15 ms, FIFO queue with 1,000 keys", ofBare64, delayFigures,
		func(m *measurement, ctx context.Context) (sample, error) {
			return m.delayed(ctx, fixtureSpec{name: "delay-fifo", fifo: true, keys: 1000})
		},
	},
	{Payload8, "payloads of 8 KiB", ofBare, payloadFigures, payload(8<<10, 1)},
	{Payload64, "payloads of 64 KiB", ofBare, payloadFigures, payload(64<<10, 1)},
	{Payload200, "payloads of 200 KiB", ofBare, payloadFigures, payload(200<<10, 1)},
	{Payload200x4, "payloads of 200 KiB in four topics", ofBare, payloadFigures, payload(200<<10, 4)},
	{
		HotKey, "a key of a FIFO queue at 150/s, 15 ms", "p50 of the other lanes, by that without the hot key",
		[]figure{
			{"lane_p99_ms", "other keys in its lane, p99, ms", atMost(500)},
			{"lane_p50_ms", "other keys in its lane, p50, ms", goal{}},
			{ratioName, "", atMost(1.2)},
			{"others_p50_ms", "the other lanes, p50, ms", goal{}},
			{"others_p99_ms", "the other lanes, p99, ms", goal{}},
			{"without_p50_ms", "without the hot key, p50, ms", goal{}},
			{"without_p99_ms", "without the hot key, p99, ms", goal{}},
			{"hot_per_second", "events/s of the hot key", goal{}},
		},
		(*measurement).hotKey,
	},
	{
		Kill, "SIGKILL of one of two workers", "the living worker's longest gap, by the longest before",
		[]figure{
			{"alive_gap_ms", "longest gap of a lane of the living worker, ms", atMost(unaffected)},
			{"dead_gap_ms", "longest gap of a lane of the dead worker, or of both, ms", atMost(5000)},
			{"all_gap_ms", "longest gap of everything, ms", goal{}},
			{"before_gap_ms", "longest gap of a lane before, ms", goal{}},
			{ratioName, "", goal{}},
			{"repeated", "events that arrived again", atMost(repeatedByDeath)},
			{"missing", "events that did not arrive in time", goal{}},
		},
		(*measurement).kill,
	},
	{
		Replace, "four workers stop while two start", "the longest gap of a lane, by the longest before",
		[]figure{
			{"lane_gap_ms", "longest gap of a lane, ms", atMost(1000)},
			{"all_gap_ms", "longest gap of everything, ms", goal{}},
			{"before_gap_ms", "longest gap of a lane before, ms", goal{}},
			{ratioName, "", goal{}},
			{"repeated", "events that arrived again", goal{}},
			{"missing", "events that did not arrive in time", goal{}},
		},
		(*measurement).replace,
	},
	{
		Held, "a transaction held open, one topic", "the lower of both, of the plain drain", heldFigures,
		func(m *measurement, ctx context.Context) (sample, error) { return m.held(ctx, 1) },
	},
	{
		Held200, "a transaction held open, 200 topics", "the lower of both, of the plain drain", heldFigures,
		func(m *measurement, ctx context.Context) (sample, error) { return m.held(ctx, 200) },
	},
	{
		Backlog, "many pending, destination back", "by that with 1,000 pending",
		[]figure{
			{"first_ms", "first event after the destination is back, ms", atMost(1000)},
			{"few_first_ms", "the same with 1,000 pending, ms", goal{}},
			{"pending", "pending events", goal{}},
			{ratioName, "", goal{}},
		},
		(*measurement).backlog,
	},
}

// rows measures the rows that are wanted, each as often as configured. A row that cannot be
// measured does not keep the others from it.
func (m *measurement) rows(ctx context.Context) error {
	m.report.Rows = map[Part]*Row{}
	var failed []error
	for _, plan := range rowPlans {
		if !m.wants(plan.part) {
			continue
		}
		if err := m.row(ctx, plan); err != nil {
			failed = append(failed, fmt.Errorf("measure %s: %w", plan.part, err))
			m.note("%v", failed[len(failed)-1])
		}
		if ctx.Err() != nil {
			break
		}
	}
	m.drainFields()
	return errors.Join(failed...)
}

func (m *measurement) row(ctx context.Context, plan rowPlan) error {
	var samples []sample
	var load []float64
	for run := range m.Runs {
		load = append(load, loadAverage())
		m.say("%s: %s (run %d of %d, load average %.1f)", plan.part, plan.measure, run+1, m.Runs, loadAverage())
		s, err := plan.run(m, ctx)
		if err != nil {
			return err
		}
		load = append(load, loadAverage())
		samples = append(samples, s)
		r := newRow(plan.measure, plan.ratioOf, plan.figures, samples)
		r.Load = load
		m.report.Rows[plan.part] = r
	}
	return nil
}

// drainFields fills the fields that the report had before it had rows.
func (m *measurement) drainFields() {
	r := m.report.Rows[Drain]
	if r == nil {
		return
	}
	field := func(name string) *float64 {
		v := r.Values[name].Median
		return &v
	}
	m.report.EventsPerSecond, m.report.CeilingEventsPerSecond = field("events_per_second"), field("bare_events_per_second")
	m.report.ActivitiesPer1000, m.report.RatioToCeiling = field("activities_per_1000"), r.Ratio
}

// loadAverage is the machine's, of one minute, and 0 where there is no /proc.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseFloat(first, 64)
	return n
}

// cpuOf adds up the parts whose names begin with one of the names.
func cpuOf(used map[string]float64, names ...string) (seconds float64) {
	for part, s := range used {
		for _, name := range names {
			if strings.HasPrefix(part, name) {
				seconds += s
			}
		}
	}
	return seconds
}

// cost notes the processor time of an event by part. Where there is no /proc, it notes nothing.
func (s sample) cost(d DrainResult) {
	if len(d.CPUSeconds) == 0 {
		return
	}
	s["postgres_us"] = micros(cpuOf(d.CPUSeconds, "postgres"), d.Events)
	s["worker_us"] = micros(cpuOf(d.CPUSeconds, "worker"), d.Events)
	s["destination_us"] = micros(cpuOf(d.CPUSeconds, "sink", "emulator"), d.Events)
	s["other_cores"] = round(d.CPUSeconds["other"]/max(d.Seconds, 0.01), 2)
}

func micros(seconds float64, events int) float64 {
	return round(1e6*seconds/float64(max(1, events)), 1)
}

// by is a ratio, 0 if there is nothing to divide by.
func by(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return round(a/b, 3)
}
