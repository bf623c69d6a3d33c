package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Run measures. It takes about a minute for each part, and longer with Full. It removes its
// databases, queues and namespace even if it fails. Its error says which parts could not be
// measured; the report then has the others.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Report{}, err
	}
	e, err := newEnvironment(ctx, cfg.Environ, cfg.WorkerEnv, cfg.Progress)
	if err != nil {
		return Report{}, err
	}
	defer e.close()
	m := &measurement{Config: cfg, environment: e}
	failed := m.rows(ctx)
	for _, part := range []struct {
		name    Part
		measure func(context.Context) error
	}{{Topics, m.manyTopics}, {Snapshot, m.heldSnapshot}, {FIFO, m.fifo}, {Receipts, m.receipts}, {Writer, m.openWriters}, {Latency, m.latency}} {
		if !cfg.wants(part.name) {
			continue
		}
		e.say("%s:", part.name)
		if err := part.measure(ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("measure %s: %w", part.name, err))
			break
		}
	}
	m.report.Notes = e.notes
	return m.report, errors.Join(failed, m.describeMachine(ctx))
}

// measurement is a run of Run.
type measurement struct {
	Config
	*environment
	report Report
}

func (m *measurement) describeMachine(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, m.vars.Get("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer conn.Close(ctx)
	m.report.Machine, err = m.machine(ctx, conn)
	return err
}

// plain drains the backlog that the others are compared with.
func (m *measurement) plain(ctx context.Context) (DrainResult, error) {
	fx, err := m.newFixture(ctx, fixtureSpec{name: "plain"})
	if err != nil {
		return DrainResult{}, err
	}
	defer fx.close()
	result, err := fx.drain(ctx, m.Events)
	if err == nil {
		m.report.Drains = append(m.report.Drains, result)
	}
	return result, err
}

// lastPlain is the latest plain drain; it drains if there was none yet.
func (m *measurement) lastPlain(ctx context.Context) (DrainResult, error) {
	if n := len(m.report.Drains); n > 0 {
		return m.report.Drains[n-1], nil
	}
	return m.plain(ctx)
}

// compare measures a variant between two plain drains.
func (m *measurement) compare(ctx context.Context, variant func(context.Context) (DrainResult, error)) (*Comparison, error) {
	before, err := m.lastPlain(ctx)
	if err != nil {
		return nil, err
	}
	result, err := variant(ctx)
	if err != nil {
		return nil, err
	}
	after, err := m.plain(ctx)
	if err != nil {
		return nil, err
	}
	c := &Comparison{DrainResult: result, PlainEventsPerSecond: round(mean(before.EventsPerSecond, after.EventsPerSecond), 1)}
	c.Ratio = round(c.EventsPerSecond/c.PlainEventsPerSecond, 3)
	m.say("  %.2f of the plain drain", c.Ratio)
	return c, nil
}

func (m *measurement) manyTopics(ctx context.Context) (err error) {
	m.report.Topics50, err = m.compare(ctx, func(ctx context.Context) (DrainResult, error) {
		fx, err := m.newFixture(ctx, fixtureSpec{name: "topics", topicCount: m.ManyTopics})
		if err != nil {
			return DrainResult{}, err
		}
		defer fx.close()
		return fx.drain(ctx, m.Events)
	})
	return err
}

// heldSnapshot drains twice under one open snapshot. The second drain is
// measured: what the first settled is still in the tables, because the snapshot
// might want to see it.
func (m *measurement) heldSnapshot(ctx context.Context) (err error) {
	m.report.HeldSnapshot, err = m.compare(ctx, func(ctx context.Context) (DrainResult, error) {
		fx, err := m.newFixture(ctx, fixtureSpec{name: "snapshot"})
		if err != nil {
			return DrainResult{}, err
		}
		defer fx.close()
		tx, err := fx.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return DrainResult{}, fmt.Errorf("hold a snapshot: %w", err)
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		var rows int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM outbox.pending`).Scan(&rows); err != nil {
			return DrainResult{}, fmt.Errorf("hold a snapshot: %w", err)
		}
		if _, err := fx.drain(ctx, m.Events); err != nil {
			return DrainResult{}, err
		}
		return fx.drain(ctx, m.Events)
	})
	return err
}

// receipts drains a topic that keeps receipts, and makes sure that it has them all.
func (m *measurement) receipts(ctx context.Context) (err error) {
	m.report.Receipts, err = m.compare(ctx, func(ctx context.Context) (DrainResult, error) {
		fx, err := m.newFixture(ctx, fixtureSpec{name: "receipts"})
		if err != nil {
			return DrainResult{}, err
		}
		defer fx.close()
		if err := fx.route(", receipts: 7d"); err != nil {
			return DrainResult{}, err
		}
		result, err := fx.drain(ctx, m.Events)
		if err != nil {
			return result, err
		}
		var kept int
		if err := fx.pool.QueryRow(ctx, `SELECT count(*) FROM outbox.receipt`).Scan(&kept); err != nil {
			return result, fmt.Errorf("count receipts: %w", err)
		}
		if kept != m.Events {
			return result, fmt.Errorf("%d events have %d receipts", m.Events, kept)
		}
		return result, nil
	})
	return err
}

func (m *measurement) latency(ctx context.Context) (err error) {
	m.report.Latency, m.report.LatencyMS, err = m.environment.latency(ctx, m.Rate, m.RateFor)
	return err
}

// fifo publishes a backlog of one key. Each event waits for the answer to the one
// before it, so this is the most that a key can have.
func (m *measurement) fifo(ctx context.Context) error {
	trip, bare, err := m.roundTrips(ctx, m.FIFOEvents)
	if err != nil {
		return err
	}
	fx, err := m.newFixture(ctx, fixtureSpec{name: "fifo", keys: 1, fifo: true})
	if err != nil {
		return err
	}
	defer fx.close()
	result, err := fx.drain(ctx, m.FIFOEvents)
	if err != nil {
		return err
	}
	tripAfter, bareAfter, err := m.roundTrips(ctx, m.FIFOEvents)
	if err != nil {
		return err
	}
	trip, bare = (trip+tripAfter)/2, round(mean(bare, bareAfter), 1)
	m.report.FIFOOneKey = &FIFOResult{
		Events: m.FIFOEvents, EventsPerSecond: result.FlowEventsPerSecond, BareEventsPerSecond: bare,
		RoundTripMS: millis(trip), Ratio: round(result.FlowEventsPerSecond/bare, 3),
	}
	return nil
}
