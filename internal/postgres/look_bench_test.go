package postgres

import (
	"context"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// These benchmarks measure how a carrier reads beside a claim and a load of today's batches:
//
//	go test -run '^$' -bench Look ./internal/postgres
//
// buffers are the pages that the statement touches, plan-ms and exec-ms PostgreSQL's own times.

// withTopics is an outbox with 25 partitions, in which each of n topics has published an event.
func withTopics(b *testing.B, n int) testOutbox {
	b.Helper()
	o := open(b)
	for day := -10; day < 15; day++ {
		o.exec(fmt.Sprintf(`SELECT outbox.make_partition((now() AT TIME ZONE 'UTC')::date + %d)`, day))
	}
	require.GreaterOrEqual(b, query[int](o, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass`), 25)
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT 'topic-' || t, l FROM generate_series(1, $1::int) t, generate_series(0, 15) l`, n)
	o.insert(n, n)
	o.settleAll()
	o.hold(everyLane...)
	o.endRounds()
	o.exec(`VACUUM ANALYZE outbox.lane, outbox.event, outbox.pending, outbox.round, outbox.share`)
	return o
}

// insert writes events of 512 bytes in n topics.
func (o testOutbox) insert(events, topics int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT 'topic-' || 1 + i % $2::int, 'k' || i % 1000, 'T', repeat('x', 512) FROM generate_series(1, $1::int) i`, events, topics)
}

// settleAll is what publishing everything leaves.
func (o testOutbox) settleAll() {
	o.t.Helper()
	o.exec(`DELETE FROM outbox.pending`)
	o.endRounds()
	o.exec(`UPDATE outbox.lane SET low_id = (SELECT final_id + 1 FROM outbox.round), mark_id = (SELECT final_id + 1 FROM outbox.round)`)
}

// heldSnapshot keeps dead rows until the end of the benchmark.
func (o testOutbox) heldSnapshot() {
	o.t.Helper()
	tx, err := o.db.BeginTx(o.t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(o.t, err)
	o.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(o.t.Context(), `SELECT count(*) FROM outbox.round`)
	require.NoError(o.t, err)
}

var (
	bufferCounts = regexp.MustCompile(`(?:hit|read)=(\d+)`)
	planTime     = regexp.MustCompile(`Planning Time: ([0-9.]+) ms`)
	execTime     = regexp.MustCompile(`Execution Time: ([0-9.]+) ms`)
)

// explain reports what a statement touches.
func (o testOutbox) explain(b *testing.B, sql string, args ...any) {
	b.Helper()
	var plan []string
	var planned, executed []float64
	buffers := 0
	for range 5 {
		rows, err := o.pool.Query(b.Context(), `EXPLAIN (ANALYZE, BUFFERS) `+sql, args...)
		require.NoError(b, err)
		plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(b, err)
		text := strings.Join(plan, "\n")
		buffers = 0
		_, top, _ := strings.Cut(text, "Buffers:")
		top, _, _ = strings.Cut(top, "\n")
		for _, m := range bufferCounts.FindAllStringSubmatch(top, -1) {
			n, _ := strconv.Atoi(m[1])
			buffers += n
		}
		p, _ := strconv.ParseFloat(planTime.FindStringSubmatch(text)[1], 64)
		e, _ := strconv.ParseFloat(execTime.FindStringSubmatch(text)[1], 64)
		planned, executed = append(planned, p), append(executed, e)
	}
	if os.Getenv("OUTBOX_PLANS") != "" {
		b.Log(strings.Join(plan, "\n"))
	}
	b.ReportMetric(float64(buffers), "buffers")
	b.ReportMetric(least(planned), "plan-ms")
	b.ReportMetric(least(executed), "exec-ms")
}

func least(all []float64) float64 {
	least := math.Inf(1)
	for _, x := range all {
		least = min(least, x)
	}
	return least
}

// onlyNew asks for everything above what has been read.
func (o testOutbox) onlyNew() relay.Look {
	o.t.Helper()
	l := everything()
	highest := query[int64](o, `SELECT max(id) FROM outbox.event`)
	l.Ranges[0].From = highest + 1
	l.Last = relay.Ref{ID: highest, At: query[int64](o, `SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM outbox.event WHERE id = $1`, highest)}
	return l
}

func benchLook(b *testing.B, o testOutbox, l relay.Look, events int) {
	b.Helper()
	o.roundsOnlyByHand()
	require.Len(b, o.see(l).Events, events)
	require.True(b, o.see(l).SameHistory)
	fastest := time.Hour
	for b.Loop() {
		began := time.Now()
		o.see(l)
		fastest = min(fastest, time.Since(began))
	}
	b.ReportMetric(fastest.Seconds()*1000, "fastest-ms")
	d := o.dates.Load()
	from, to := rangeColumns(l.Ranges)
	o.explain(b, lookSQL, l.Worker, l.Lanes, from, to, l.Last.ID, timestamp(l.Last.At), earliest(d.from), latest(d.to), l.Most, alongBytes(l.Most))
}

func benchClaim(b *testing.B, o testOutbox) {
	b.Helper()
	o.hold()
	defer o.hold(everyLane...)
	o.roundsOnlyByHand()
	o.sweepOnlyByHand()
	require.Empty(b, o.claim())
	fastest := time.Hour
	for b.Loop() {
		began := time.Now()
		o.claim()
		fastest = min(fastest, time.Since(began))
	}
	b.ReportMetric(fastest.Seconds()*1000, "fastest-ms")
	o.explain(b, waitingLanesSQL, 4, []string{}, []int{}, nil, 4, timing.ShareFirst, timing.WorkerGone)
}

func BenchmarkLook_WithNothingNew(b *testing.B) {
	for _, topics := range []int{1, 200, 1000} {
		o := withTopics(b, topics)
		b.Run(fmt.Sprintf("topics=%d/look", topics), func(b *testing.B) { o.t = b; benchLook(b, o, o.onlyNew(), 0) })
		b.Run(fmt.Sprintf("topics=%d/claim", topics), func(b *testing.B) { o.t = b; benchClaim(b, o) })
	}
}

// BenchmarkLook_Beside measures looks for nothing new beside transactions that stay open.
func BenchmarkLook_Beside(b *testing.B) {
	const settled = 500_000
	beside := func(name string, hold func(o testOutbox), l func(o testOutbox) relay.Look, events int) {
		o := withTopics(b, 200)
		hold(o)
		b.Run(name+"/look", func(b *testing.B) { o.t = b; benchLook(b, o, l(o), events) })
		b.Run(name+"/claim", func(b *testing.B) { o.t = b; benchClaim(b, o) })
		b.Run(name+"/discover", func(b *testing.B) {
			o.t = b
			for b.Loop() {
				o.discover(everyLane...)
			}
			o.explain(b, discoverSQL, aWorker, everyLane)
		})
	}
	beside("snapshot", func(o testOutbox) {
		o.heldSnapshot()
		for range settled / 50_000 {
			o.insert(50_000, 200)
			o.settleAll()
		}
	}, testOutbox.onlyNew, 0)
	beside("other-writer", func(o testOutbox) {
		o.exec(`CREATE TABLE public.other (n int)`)
		tx, err := o.db.Begin(b.Context())
		require.NoError(b, err)
		b.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		_, err = tx.Exec(b.Context(), `INSERT INTO public.other VALUES (1)`)
		require.NoError(b, err)
		for range settled / 50_000 {
			o.insert(50_000, 200)
			o.settleAll()
		}
	}, testOutbox.onlyNew, 0)
	// The ids of the writer are one gap, and the event above them has been seen.
	beside("event-writer", func(o testOutbox) {
		tx, err := o.db.Begin(b.Context())
		require.NoError(b, err)
		b.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		_, err = tx.Exec(b.Context(), `INSERT INTO outbox.event (topic, key, type, payload)
		    SELECT 'topic-1', 'k' || i, 'T', repeat('x', 512) FROM generate_series(1, 100000) i`)
		require.NoError(b, err)
		o.insert(1, 1)
		o.exec(`DELETE FROM outbox.pending`)
	}, func(o testOutbox) relay.Look {
		l := o.onlyNew()
		highest := l.Ranges[0].From - 1
		l.Ranges = []relay.IDRange{{From: highest - 100_000, To: highest - 1}, {From: highest + 1, To: math.MaxInt64}}
		return l
	}, 0)
}

// BenchmarkLook_NewEvents measures what a page of new events costs, beside today's page of the same size.
func BenchmarkLook_NewEvents(b *testing.B) {
	o := withTopics(b, 20)
	l := o.onlyNew()
	o.insert(500, 1)
	b.Run("look", func(b *testing.B) { o.t = b; benchLook(b, o, l, 500) })
	b.Run("load", func(b *testing.B) {
		o.t = b
		o.hold()
		o.roundsOnlyByHand()
		_, lease := o.claimOne()
		for b.Loop() {
			page, err := o.page(b.Context(), lease, nil, 500)
			require.NoError(b, err)
			require.Len(b, page.Events, 500)
		}
	})
	b.Run("contents", func(b *testing.B) {
		o.t = b
		var narrow []relay.Narrow
		for _, e := range o.see(l).Events {
			narrow = append(narrow, relay.Narrow{Topic: e.Topic, Ref: e.Ref, Bytes: e.Bytes})
		}
		for b.Loop() {
			_, err := o.Contents(b.Context(), narrow)
			require.NoError(b, err)
		}
	})
}

func BenchmarkPages_OfAMillion(b *testing.B) {
	o := withTopics(b, 20)
	for range 20 {
		o.insert(50_000, 20)
	}
	var cursors []relay.LaneCursor
	began := time.Now()
	for _, f := range o.discover(everyLane...).First {
		cursors = append(cursors, relay.LaneCursor{TopicLane: f.TopicLane, After: f.Ref.ID - 1, Most: 100})
	}
	b.Logf("%d lanes discovered in %s", len(cursors), time.Since(began))
	cursors = cursors[:16]
	b.Run("pages", func(b *testing.B) {
		o.t = b
		o.roundsOnlyByHand()
		for b.Loop() {
			require.Len(b, o.pages(500, cursors...).Events, 500)
		}
		topics, numbers, after, seen, mosts := cursorColumns(cursors, 500)
		d := o.paged.Load()
		o.explain(b, pagesSQL, aWorker, everyLane, topics, numbers, after, mosts, 500, earliest(d.from), latest(d.to), relay.AlongBytes, seen)
	})
	b.Run("load", func(b *testing.B) {
		o.t = b
		o.hold()
		batches := o.claim()
		lease, err := o.TakeOver(b.Context(), batches[0])
		require.NoError(b, err)
		for b.Loop() {
			page, err := o.page(b.Context(), lease, nil, 500)
			require.NoError(b, err)
			require.NotEmpty(b, page.Events)
		}
	})
	b.Run("look-from-the-first", func(b *testing.B) {
		l := everything()
		l.Most = 500
		o.t = b
		benchLook(b, o, l, 500)
	})
}
