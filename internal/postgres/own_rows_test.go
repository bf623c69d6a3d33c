package postgres

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/schema"
)

// A test suite may truncate all tables between two tests.
func TestState_WithoutTheRelaysOwnRowsEventsArePublishedAndTheRowsAreNamed(t *testing.T) {
	o := open(t)
	s := testOutbox{o.asRelay(), t, o.db}
	o.write("orders", 5)
	o.exec(`TRUNCATE outbox.round, outbox.sample, outbox.share`)
	_, lease := s.claimOne()
	require.Len(t, s.drain(lease), 5)
	require.Zero(t, o.pending())
	_, _, err := s.AdvanceRounds(t.Context(), true)
	require.ErrorContains(t, err, "starter migrate")
	_, _, err = s.TryAcquireSampling(t.Context(), "x", 1)
	require.ErrorContains(t, err, "starter migrate")
	o.write("orders", 5)
	require.Len(t, s.drain(second(s.claimOne())), 5, "the lanes were released")
	require.Zero(t, query[int64](o, `SELECT max(low_id) FROM outbox.lane`), "no round has ended")

	err = s.State(t.Context())
	require.ErrorContains(t, err, `outbox.round has lost its row: run "starter migrate"`)
	require.ErrorContains(t, err, `outbox.sample has lost its row: run "starter migrate"`)
	require.ErrorContains(t, err, `outbox.share has lost its row: run "starter migrate"`)
}

// A low watermark that was noted before waits for the transactions that can still insert below it.
func TestState_MigratePutsTheRelaysOwnRowsBack(t *testing.T) {
	o := open(t)
	for range 3 {
		o.write("orders", 5)
		for _, b := range o.claim() {
			l, err := o.TakeOver(t.Context(), b)
			require.NoError(t, err)
			o.drain(l)
		}
		_, _, err := o.AdvanceRounds(t.Context(), true)
		require.NoError(t, err)
		o.endRounds()
	}
	noted := query[int64](o, `SELECT max(mark_round) FROM outbox.lane`)
	require.Positive(t, noted)
	o.exec(`TRUNCATE outbox.round, outbox.sample, outbox.share`)
	conn, err := Connect(t.Context(), o.db.Config().ConnString(), nil, func(string) {})
	require.NoError(t, err)
	defer conn.Close(t.Context())
	for range 2 {
		r, err := schema.Migrate(t.Context(), conn)
		require.NoError(t, err)
		require.False(t, r.Changed())
	}
	require.NoError(t, o.State(t.Context()))
	require.Greater(t, query[int64](o, `SELECT number FROM outbox.round`), noted)
	require.Less(t, query[int64](o, `SELECT ended FROM outbox.round`), noted)
	low := query[int64](o, `SELECT max(low_id) FROM outbox.lane`)
	o.write("orders", 5)
	for _, b := range o.claim() {
		l, err := o.TakeOver(t.Context(), b)
		require.NoError(t, err)
		o.drain(l)
	}
	o.endRounds()
	require.Greater(t, query[int64](o, `SELECT max(low_id) FROM outbox.lane`), low, "low watermarks advance again")
}

// The round that waited when the row was lost may not have been the last that has noted low watermarks.
func TestState_MigrateEndsNoRoundThatWaits(t *testing.T) {
	o := open(t)
	o.roundsAtOnce()
	drained := func(topic string) {
		o.write(topic, 5)
		require.NoError(t, o.Sweep(t.Context()))
		for _, b := range o.claim() {
			l, err := o.TakeOver(t.Context(), b)
			require.NoError(t, err)
			o.drain(l)
		}
	}
	drained("orders")
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
	drained("audit")
	// Round 7 waits, and round 8 collects low watermarks.
	o.exec(`UPDATE outbox.lane SET low_id = 0, mark_id = 12, mark_round = CASE topic WHEN 'orders' THEN 7 ELSE 8 END`)

	o.exec(`TRUNCATE outbox.round`)
	conn, err := Connect(t.Context(), o.db.Config().ConnString(), nil, func(string) {})
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = schema.Migrate(t.Context(), conn)
	require.NoError(t, err)
	for range 3 {
		_, waits, err := o.AdvanceRounds(t.Context(), true)
		require.NoError(t, err)
		require.True(t, waits)
		require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.lane WHERE low_id > 0`), "a transaction may insert below")
	}
	require.NoError(t, tx.Commit(t.Context()))
	o.endRounds()
	require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.lane WHERE mark_id > low_id AND topic = 'audit'`))
	require.Positive(t, query[int](o, `SELECT count(*) FROM outbox.lane WHERE low_id > 0 AND topic = 'orders'`))
}

func TestOperate_OfTextsThatTheEncodingLacksIsOnRecord(t *testing.T) {
	o := encoded(t, "LATIN1")
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	op := relay.Operation{Kind: relay.Redrive, Topic: "orders", By: "ада", Reason: "a refund of 5 €", WorkflowID: "x/"}
	_, err := o.Pause(t.Context(), op)
	require.NoError(t, err)
	_, err = o.Resume(t.Context(), op)
	require.NoError(t, err)
	_, _, err = o.BeginOperation(t.Context(), op)
	require.NoError(t, err)
	op.Kind = "recover-now"
	for range 2 {
		_, _, err = o.RecordRecoveryRequest(t.Context(), op)
		require.NoError(t, err)
	}
	require.Equal(t, 5, query[int](o, `SELECT count(*) FROM outbox.operation WHERE reason = 'a refund of 5 ?' AND by = '???'`))
}
