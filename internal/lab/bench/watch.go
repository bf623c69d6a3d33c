package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// pollEvery is how often the database is asked whether the drain is over. It is
	// asked for a few rows by their keys, which costs it little.
	pollEvery = 50 * time.Millisecond
	// drainPatience is how long nothing may be settled before a drain is given up.
	drainPatience = 3 * time.Minute
)

// watcher knows the first and the last pending event of every lane. Asking for
// those by their keys costs the same however much was settled before and however
// old the oldest snapshot is; asking for any pending row does not.
type watcher struct {
	conn         *pgx.Conn
	topics       []string
	lanes        []int16
	first, final []int64
}

const edgesSQL = `SELECT topic, lane, min(id), max(id) FROM outbox.pending GROUP BY 1, 2`

func (fx *fixture) watch(ctx context.Context) (*watcher, error) {
	conn, err := pgx.Connect(ctx, fx.env.Get("DATABASE_URL"))
	if err != nil {
		return nil, fmt.Errorf("watch the drain: %w", err)
	}
	w := &watcher{conn: conn}
	rows, err := conn.Query(ctx, edgesSQL)
	if err != nil {
		return nil, fmt.Errorf("find the first and last events: %w", err)
	}
	var topic string
	var lane int16
	var lowest, highest int64
	_, err = pgx.ForEachRow(rows, []any{&topic, &lane, &lowest, &highest}, func() error {
		w.topics, w.lanes = append(w.topics, topic), append(w.lanes, lane)
		w.first, w.final = append(w.first, lowest), append(w.final, highest)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find the first and last events: %w", err)
	}
	// The planner's figures of a table that has just grown are wrong, so force the index.
	_, err = conn.Exec(ctx, "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off")
	return w, err
}

func (w *watcher) close(ctx context.Context) { _ = w.conn.Close(context.WithoutCancel(ctx)) }

// pendingSQL finds the edges that are pending. Its LIMIT makes PostgreSQL look each edge up by its key. A
// join may also read all of pending and all edges for each of its rows, which it did when an ANALYZE fell into
// the moment between two drains.
const pendingSQL = `
CROSS JOIN LATERAL (SELECT FROM outbox.pending p
    WHERE p.topic = edge.topic AND p.lane = edge.lane AND p.id = edge.id AND p.replay = 0 LIMIT 1) there`

const leftSQL = `
SELECT edge.n::int FROM unnest($1::text[], $2::smallint[], $3::bigint[]) WITH ORDINALITY AS edge(topic, lane, id, n)` + pendingSQL + `
ORDER BY 1 LIMIT 1`

const emptySQL = `SELECT NOT EXISTS (SELECT FROM outbox.pending)`

// askedAtOnce is how many lanes one look at the database covers.
const askedAtOnce = 16

// passed is how many of the edges, in order, are settled: it stops at the first
// that is not, or after askedAtOnce.
func (w *watcher) passed(ctx context.Context, edges []int64, from int) (int, error) {
	to := min(from+askedAtOnce, len(edges))
	var n int
	err := w.conn.QueryRow(ctx, leftSQL, w.topics[from:to], w.lanes[from:to], edges[from:to]).Scan(&n)
	if errors.Is(err, pgx.ErrNoRows) {
		return to, nil
	}
	if err != nil {
		return from, fmt.Errorf("watch the drain: %w", err)
	}
	return from + n - 1, nil
}

// begun reports whether the first event of any lane is settled.
func (w *watcher) begun(ctx context.Context) (bool, error) {
	var left int
	if err := w.conn.QueryRow(ctx, leftCountSQL, w.topics, w.lanes, w.first).Scan(&left); err != nil {
		return false, fmt.Errorf("watch the drain: %w", err)
	}
	return left < len(w.first), nil
}

const leftCountSQL = `
SELECT count(*) FROM unnest($1::text[], $2::smallint[], $3::bigint[]) AS edge(topic, lane, id)` + pendingSQL

// wait returns when the first of the first events was seen settled, and when
// nothing was pending any more.
func (w *watcher) wait(ctx context.Context, relay *worker) (first, last time.Time, err error) {
	for moved := time.Now(); first.IsZero(); time.Sleep(pollEvery / 5) {
		begun, err := w.begun(ctx)
		if err != nil {
			return first, last, err
		}
		if begun {
			first = time.Now()
		}
		if err := standstill(moved, relay); err != nil {
			return first, last, err
		}
	}
	for moved, done := time.Now(), 0; ; time.Sleep(pollEvery) {
		for before := -1; before < done && done < len(w.final); {
			before = done
			if done, err = w.passed(ctx, w.final, done); err != nil {
				return first, last, err
			}
			if done > before {
				moved = time.Now()
			}
		}
		if done == len(w.final) {
			var empty bool
			if err := w.conn.QueryRow(ctx, emptySQL).Scan(&empty); err != nil {
				return first, last, fmt.Errorf("watch the drain: %w", err)
			}
			if empty {
				return first, time.Now(), nil
			}
		}
		if err := standstill(moved, relay); err != nil {
			return first, last, err
		}
	}
}

// standstill is an error if the worker has ended, or nothing has moved for too
// long.
func standstill(moved time.Time, relay *worker) error {
	if time.Since(moved) > drainPatience {
		return fmt.Errorf("the drain stands still; the worker says: %s", relay.words())
	}
	return relay.alive()
}
