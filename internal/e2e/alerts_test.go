package e2e

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"
)

const (
	scrapeEvery   = 15 * time.Second
	evaluateEvery = 30 * time.Second
)

// shown is a series as workers show it: its value at a time, or nothing.
type shown struct {
	series string
	at     func(since time.Duration) (float64, bool)
}

// always shows a value all the time.
func always(series string, v float64) shown {
	return shown{series, func(time.Duration) (float64, bool) { return v, true }}
}

// until shows a value until then.
func until(end time.Duration, series string, v float64) shown {
	return shown{series, func(since time.Duration) (float64, bool) { return v, since < end }}
}

// sometimes shows a value for the first half minute of every cycle, as a worker does
// whose samples take long.
func sometimes(cycle time.Duration, series string, v float64) shown {
	return shown{series, func(since time.Duration) (float64, bool) { return v, since%cycle < 30*time.Second }}
}

// point is a sample as Prometheus keeps it.
type point struct {
	t int64
	f float64
}

func (p point) T() int64                    { return p.t }
func (p point) F() float64                  { return p.f }
func (point) H() *histogram.Histogram       { return nil }
func (point) FH() *histogram.FloatHistogram { return nil }
func (point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample         { return p }

// seriesSet is a list of series.
type seriesSet struct {
	storage.SeriesSet
	series []storage.Series
	next   int
}

func (s *seriesSet) Next() bool         { s.next++; return s.next <= len(s.series) }
func (s *seriesSet) At() storage.Series { return s.series[s.next-1] }

// scraped is what Prometheus has after scraping so long. A series that is not there
// any more ends with a mark that says so.
func scraped(t *testing.T, lasting time.Duration, all []shown) storage.Queryable {
	t.Helper()
	var series []storage.Series
	for _, s := range all {
		name, err := parser.ParseMetric(s.series)
		require.NoError(t, err)
		var points []chunks.Sample
		for was, since := false, time.Duration(0); since <= lasting; since += scrapeEvery {
			v, is := s.at(since)
			switch {
			case is:
				points = append(points, point{since.Milliseconds(), v})
			case was:
				points = append(points, point{since.Milliseconds(), math.Float64frombits(value.StaleNaN)})
			}
			was = is
		}
		series = append(series, storage.NewListSeries(name, points))
	}
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			found := &seriesSet{SeriesSet: storage.EmptySeriesSet()}
			for _, s := range series {
				matches := true
				for _, m := range matchers {
					matches = matches && m.Matches(s.Labels().Get(m.Name))
				}
				if matches {
					found.series = append(found.series, s)
				}
			}
			return found
		},
	}}
}

// firesAfter evaluates a rule as Prometheus does, and returns when it first fires, or
// -1 if it does not.
func firesAfter(t *testing.T, r rule, lasting time.Duration, all []shown) time.Duration {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	wait, err := time.ParseDuration(r.For)
	require.NoError(t, err)
	data := scraped(t, lasting, all)
	pending := map[string]time.Duration{}
	for since := time.Duration(0); since <= lasting; since += evaluateEvery {
		query, err := engine.NewInstantQuery(context.Background(), data, nil, r.Expr, time.UnixMilli(since.Milliseconds()))
		require.NoError(t, err)
		vector, err := query.Exec(t.Context()).Vector()
		require.NoError(t, err)
		still := map[string]time.Duration{}
		for _, s := range vector {
			began, known := pending[s.Metric.String()]
			if !known {
				began = since
			}
			if since-began >= wait {
				return since
			}
			still[s.Metric.String()] = began
		}
		pending = still
		query.Close()
	}
	return -1
}

func TestAlerts_FireWhenTheyShouldAndNotOtherwise(t *testing.T) {
	t.Parallel()
	const never = -1
	sampled := always(`outbox_topics_sampled`, 1)
	paused := func(by string, v float64) shown { return always(`outbox_topic_paused{topic="orders",by="`+by+`"}`, v) }
	age := func(v float64) shown { return always(`outbox_oldest_pending_age_seconds{topic="orders"}`, v) }
	covered := map[string]bool{}
	for _, c := range []struct {
		alert, when string
		shown       []shown
		lasting     time.Duration
		from, to    time.Duration // when it fires
	}{
		{"OutboxRelayDown", "a worker claims", []shown{sampled}, time.Hour, never, never},
		{"OutboxRelayDown", "samples take two minutes", []shown{sometimes(2*time.Minute, `outbox_topics_sampled`, 1)}, time.Hour, never, never},
		{"OutboxRelayDown", "workers take turns", []shown{
			sometimes(time.Minute, `outbox_topics_sampled{instance="a"}`, 1), sometimes(time.Minute, `outbox_topics_sampled{instance="b"}`, 1),
		}, time.Hour, never, never},
		{"OutboxRelayDown", "none claims any more", []shown{until(10*time.Minute, `outbox_topics_sampled`, 1)}, time.Hour, 13 * time.Minute, 15 * time.Minute},

		{"OutboxNotRunning", "all parts run", []shown{always(`outbox_relay_up{part="schedule"}`, 1), always(`outbox_relay_up{part="relay"}`, 1)}, time.Hour, never, never},
		{"OutboxNotRunning", "the schedule is paused", []shown{always(`outbox_relay_up{part="schedule"}`, 0)}, time.Hour, 5 * time.Minute, 6 * time.Minute},
		{"OutboxNotRunning", "a roll-out takes three minutes", []shown{until(3*time.Minute, `outbox_relay_up{part="version"}`, 0)}, time.Hour, never, never},

		{"OutboxNotRunning", "a new deployment's workers wait for their version", []shown{
			always(`outbox_relay_up{part="version",instance="a"}`, 1), always(`outbox_relay_up{part="version",instance="b"}`, 0),
		}, time.Hour, never, never},

		{"OutboxNoSeat", "workers publish batches of topics only", []shown{sampled}, time.Hour, never, never},
		{"OutboxNoSeat", "one of two has a seat", []shown{
			always(`outbox_worker_seated{instance="a"}`, 1), always(`outbox_worker_seated{instance="b"}`, 0),
		}, time.Hour, never, never},
		{"OutboxNoSeat", "a run follows another", []shown{{`outbox_worker_seated`, func(since time.Duration) (float64, bool) {
			return float64(min(1, int(since%(2*time.Minute)/scrapeEvery))), true
		}}}, time.Hour, never, never},
		{"OutboxNoSeat", "none has one", []shown{always(`outbox_worker_seated{instance="a"}`, 0), always(`outbox_worker_seated{instance="b"}`, 0)}, time.Hour, time.Minute, 2 * time.Minute},

		{"OutboxSharesFree", "workers publish batches of topics only", []shown{sampled}, time.Hour, never, never},
		{"OutboxSharesFree", "all are held", []shown{always(`outbox_shares_held{instance="a"}`, 8), always(`outbox_shares_held{instance="b"}`, 8)}, time.Hour, never, never},
		{"OutboxSharesFree", "others take those of a worker that was killed", []shown{
			until(10*time.Minute, `outbox_shares_held{instance="a"}`, 8),
			{`outbox_shares_held{instance="b"}`, func(since time.Duration) (float64, bool) {
				if since < 10*time.Minute+30*time.Second {
					return 8, true
				}
				return 16, true
			}},
		}, time.Hour, never, never},
		{"OutboxSharesFree", "nobody takes them", []shown{
			until(10*time.Minute, `outbox_shares_held{instance="a"}`, 8), always(`outbox_shares_held{instance="b"}`, 8),
		}, time.Hour, 11 * time.Minute, 12 * time.Minute},

		{"OutboxDestinationMissing", "all are found", []shown{always(`outbox_destination_up{topic="orders"}`, 1)}, time.Hour, never, never},
		{"OutboxDestinationMissing", "one worker does not find it", []shown{
			always(`outbox_destination_up{topic="orders",instance="a"}`, 1), always(`outbox_destination_up{topic="orders",instance="b"}`, 0),
		}, time.Hour, 5 * time.Minute, 6 * time.Minute},

		{"OutboxEventsLate", "events flow", []shown{age(2), paused("operator", 0)}, time.Hour, never, never},
		{"OutboxEventsLate", "one waits", []shown{age(400), paused("operator", 0), paused("recovery", 0)}, time.Hour, 2 * time.Minute, 3 * time.Minute},
		{"OutboxEventsLate", "samples take long", []shown{sometimes(150*time.Second, `outbox_oldest_pending_age_seconds{topic="orders"}`, 400)}, time.Hour, 2 * time.Minute, 3 * time.Minute},
		{"OutboxEventsLate", "an operator has paused it", []shown{age(400), paused("operator", 1)}, time.Hour, never, never},
		{"OutboxEventsLate", "it is in recovery", []shown{age(400), paused("recovery", 1)}, time.Hour, never, never},

		{"OutboxRecoveryOpen", "there is none", []shown{paused("recovery", 0), paused("operator", 1)}, time.Hour, never, never},
		{"OutboxRecoveryOpen", "it takes five minutes", []shown{until(5*time.Minute, `outbox_topic_paused{topic="orders",by="recovery"}`, 1)}, time.Hour, never, never},
		{"OutboxRecoveryOpen", "it goes on", []shown{paused("recovery", 1)}, time.Hour, 15 * time.Minute, 16 * time.Minute},

		{"OutboxDeadLetters", "there are none", []shown{always(`outbox_dead_letters{topic="orders"}`, 0)}, time.Hour, never, never},
		{"OutboxDeadLetters", "there is one", []shown{always(`outbox_dead_letters{topic="orders"}`, 1)}, time.Hour, 5 * time.Minute, 6 * time.Minute},

		{"OutboxPartitionsShort", "there are enough", []shown{always(`outbox_partitions_ahead_days`, 14)}, time.Hour, never, never},
		{"OutboxPartitionsShort", "there are two", []shown{always(`outbox_partitions_ahead_days`, 2)}, time.Hour, 10 * time.Minute, 11 * time.Minute},

		{"OutboxUpkeepMissing", "it runs every hour", []shown{always(`outbox_partitions_ahead_days`, 14)}, 5 * time.Hour, never, never},
		{"OutboxUpkeepMissing", "workers are replaced before the next", []shown{sometimes(2*time.Hour, `outbox_partitions_ahead_days`, 14)}, 10 * time.Hour, never, never},
		{"OutboxUpkeepMissing", "it does not run any more", []shown{until(time.Hour, `outbox_partitions_ahead_days`, 14)}, 5 * time.Hour, 4 * time.Hour, 4*time.Hour + 6*time.Minute},

		{"OutboxVacuumHeld", "as usual", []shown{always(`outbox_vacuum_held_transactions`, 50_000)}, time.Hour, never, never},
		{"OutboxVacuumHeld", "something holds it back", []shown{always(`outbox_vacuum_held_transactions`, 2e6)}, time.Hour, 10 * time.Minute, 11 * time.Minute},
	} {
		covered[fmt.Sprint(c.alert, c.to != never)] = true
		t.Run(fmt.Sprintf("%s when %s", c.alert, c.when), func(t *testing.T) {
			tested := false
			for _, r := range rules(t) {
				if r.Alert != c.alert {
					continue
				}
				tested = true
				at := firesAfter(t, r, c.lasting, c.shown)
				require.True(t, at >= c.from && at <= c.to, "fires after %s, want %s to %s", at, c.from, c.to)
			}
			require.True(t, tested)
		})
	}
	for _, r := range rules(t) {
		require.True(t, covered[r.Alert+"true"] && covered[r.Alert+"false"], "%s is tested both ways", r.Alert)
	}
}
