package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
)

// openTransactions are transactions that cannot insert an event, by what they do.
var openTransactions = []struct{ open, sql string }{
	{"reader", `SELECT count(*) FROM outbox.pending`},
	{"writer of another table", `CREATE TABLE other AS SELECT pg_current_xact_id()`},
	{"prepared transaction", `CREATE TABLE other AS SELECT pg_current_xact_id()`},
}

const (
	// A probe is the median of so many claims and loads of so many events.
	probes      = 21
	probeEvents = 16
)

// openWriters measures claims and loads before and after much was published while a
// transaction was open: nothing that was settled meanwhile can be cleaned up.
func (m *measurement) openWriters(ctx context.Context) error {
	for _, t := range openTransactions {
		result, err := m.openWriter(ctx, t.open, t.sql)
		if err != nil {
			return fmt.Errorf("with an open %s: %w", t.open, err)
		}
		m.report.OpenWriters = append(m.report.OpenWriters, result)
		m.say("  open %s: claim %.2f ms (%.2f times), load %.2f ms (%.2f times)", t.open, result.ClaimMS, result.ClaimRatio, result.LoadMS, result.LoadRatio)
	}
	return nil
}

func (m *measurement) openWriter(ctx context.Context, open, sql string) (r WriterResult, err error) {
	fx, err := m.newFixture(ctx, fixtureSpec{name: "writer"})
	if err != nil {
		return r, err
	}
	defer fx.close()
	r = WriterResult{Open: open, Events: m.Meanwhile}
	tx, err := fx.hold(ctx, sql)
	if err != nil {
		return r, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if open == "prepared transaction" {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`PREPARE TRANSACTION '%s'`, fx.database)); err != nil {
			return r, fmt.Errorf("prepare a transaction (max_prepared_transactions must be above 0): %w", err)
		}
		defer func() {
			_, _ = fx.pool.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`ROLLBACK PREPARED '%s'`, fx.database))
		}()
	}
	if r.ClaimBeforeMS, r.LoadBeforeMS, err = fx.probe(ctx); err != nil {
		return r, err
	}
	for left := m.Meanwhile; left > 0; left -= m.Events {
		if _, err := fx.drain(ctx, min(left, m.Events)); err != nil {
			return r, err
		}
		// The emulator keeps all messages in memory.
		if _, err := fx.sqs.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: aws.String(fx.queues[0])}); err != nil {
			return r, fmt.Errorf("purge the queue: %w", err)
		}
	}
	if r.ClaimMS, r.LoadMS, err = fx.probe(ctx); err != nil {
		return r, err
	}
	r.ClaimRatio, r.LoadRatio = round(r.ClaimMS/r.ClaimBeforeMS, 2), round(r.LoadMS/r.LoadBeforeMS, 2)
	return r, nil
}

// probe claims and loads a few events again and again, as a worker does, while none runs.
// They are of the topic that is drained, so that its lanes are read.
func (fx *fixture) probe(ctx context.Context) (claimMS, loadMS float64, err error) {
	store, err := postgres.Open(ctx, postgres.Config{URL: fx.env.Get("DATABASE_URL")})
	if err != nil {
		return 0, 0, err
	}
	defer store.Close()
	if err := fx.insert(ctx, probeEvents); err != nil {
		return 0, 0, err
	}
	if err := store.Sweep(ctx); err != nil {
		return 0, 0, err
	}
	var claims, loads []time.Duration
	for len(claims) < probes {
		began := time.Now()
		batches, err := store.Claim(ctx, relay.ClaimRequest{By: "probe", Batches: 1, PerTopic: 4})
		claims = append(claims, time.Since(began))
		if err != nil {
			return 0, 0, err
		}
		for _, batch := range batches {
			lease, err := store.TakeOver(ctx, batch)
			if err != nil {
				return 0, 0, err
			}
			began = time.Now()
			_, err = store.Load(ctx, lease, nil, relay.PageEvents/2)
			loads = append(loads, time.Since(began))
			if err == nil {
				err = store.ReleaseClaim(ctx, batch)
			}
			if err != nil {
				return 0, 0, err
			}
		}
	}
	slices.Sort(claims)
	slices.Sort(loads)
	return millis(claims[len(claims)/2]), millis(loads[len(loads)/2]), nil
}
