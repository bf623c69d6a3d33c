package chaos

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestRefused_IsWhatNoOutageExplains(t *testing.T) {
	now := time.Now()
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	outage := []check.Fault{
		{Kind: string(plan.CutDatabase), Start: at(10), End: at(20)},
		{Kind: string(plan.Kill), Start: at(0), End: at(100)},
	}
	reset, partition := errors.New("connection reset"), &pgconn.PgError{Code: "23514", Message: "event_default"}
	for name, c := range map[string]struct {
		began, ended int
		err          error
		refused      bool
	}{
		"cut off meanwhile":            {8, 11, reset, false},
		"a connection that was cut":    {24, 24, reset, false},
		"a standby":                    {15, 15, &pgconn.PgError{Code: "25006"}, false},
		"it starts":                    {15, 15, &pgconn.PgError{Code: "57P03"}, false},
		"before":                       {5, 8, reset, true},
		"long after":                   {30, 31, reset, true},
		"the statement, in an outage":  {15, 15, partition, true},
		"a deadlock, in an outage":     {15, 15, &pgconn.PgError{Code: "40P01"}, true},
		"the statement, and no outage": {50, 50, partition, true},
	} {
		t.Run(name, func(t *testing.T) {
			list := refused([]load.Failure{{Began: at(c.began), Ended: at(c.ended), Err: c.err}}, outage)
			require.Equal(t, c.refused, len(list) == 1)
		})
	}
}

func TestObservations_GiveBackEachRecord(t *testing.T) {
	r, err := newObservations(t.TempDir(), 3*partEvents)
	require.NoError(t, err)
	t.Cleanup(r.close)
	at := time.Now().UTC().Round(0)
	r.written(check.Written{ID: "a", Topic: "t", Payload: "p", Attributes: map[string]string{"x": "y"}, At: at})
	r.received(check.Received{EventID: "a", N: 7, Queue: "q", Sent: at})
	r.sent(check.Send{EventID: "a", Process: "w", Began: at, Told: true})
	for _, what := range []what{isKept, isLost, isReplayed, replayIsLost, isDiscarded} {
		r.noted(noted{ID: "a", What: what, Number: 3, At: at})
	}
	var found []check.Part
	for n := range r.Parts() {
		p, err := r.Part(n)
		require.NoError(t, err)
		if len(p.Written) > 0 {
			found = append(found, p)
		}
	}
	replays := map[string][]check.Replay{"a": {{Number: 3, At: at}}}
	require.Equal(t, []check.Part{{
		Written:  []check.Written{{ID: "a", Topic: "t", Payload: "p", Attributes: map[string]string{"x": "y"}, At: at}},
		Received: []check.Received{{EventID: "a", N: 7, Queue: "q", Sent: at}},
		Sends:    []check.Send{{EventID: "a", Process: "w", Began: at, Told: true}},
		Replays:  replays, LostReplays: replays, Discards: map[string][]int64{"a": {3}},
		Kept: map[string]bool{"a": true}, Lost: map[string]bool{"a": true},
	}}, found)
}

// audited returns a database whose changes are recorded.
func audited(t *testing.T) *pgxpool.Pool {
	db, err := pgxpool.New(t.Context(), testenv.DatabaseURL(t))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	_, err = db.Exec(t.Context(), auditSQL)
	require.NoError(t, err)
	return db
}

// auditedEvent returns such a database with an event, and the event's id.
func auditedEvent(t *testing.T) (db *pgxpool.Pool, id string) {
	db = audited(t)
	require.NoError(t, db.QueryRow(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('a', 'T', 'x') RETURNING event_id::text`).Scan(&id))
	return db, id
}

// A dead letter EventMissing is a violation if its event is there, and none if its
// partition was dropped before.
func TestAudit_KnowsOfAnEventThatIsTakenForMissing(t *testing.T) {
	db := audited(t)
	_, err := db.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('a', 'T', 'x'), ('a', 'T', 'gone'), ('a', 'T', 'other')`)
	require.NoError(t, err)
	_, err = db.Exec(t.Context(), `
		UPDATE chaos.event SET gone_at = now() - interval '1 minute' WHERE id = (SELECT id FROM outbox.event WHERE payload = 'gone');
		INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
		SELECT topic, lane, id, created_at, 1, CASE payload WHEN 'other' THEN 'InvalidParameter' ELSE 'EventMissing' END, '', 1, '' FROM outbox.event`)
	require.NoError(t, err)
	r, err := newObservations(t.TempDir(), 1)
	require.NoError(t, err)
	t.Cleanup(r.close)
	var facts check.Facts
	require.NoError(t, (&fixture{db: db, observed: r}).recorded(t.Context(), &facts))
	var id string
	require.NoError(t, db.QueryRow(t.Context(), `SELECT event_id::text FROM outbox.event WHERE payload = 'x'`).Scan(&id))
	require.Equal(t, []string{id}, facts.Missing)
}

// The database's own record of an event that came twice: settled, and the lane held by
// another, in this order.
func TestAudit_HasWhenAnEventWasSettledAndItsLaneTaken(t *testing.T) {
	db, id := auditedEvent(t)
	_, err := db.Exec(t.Context(), `
		INSERT INTO outbox.lane (topic, lane) SELECT topic, lane FROM outbox.event;
		UPDATE outbox.lane SET claimed_at = now();
		DELETE FROM outbox.pending;
		SET application_name = 'worker-7';
		UPDATE outbox.lane SET holder = gen_random_uuid();
		UPDATE outbox.lane SET holder = NULL;
		INSERT INTO chaos.undone SELECT event_id, now() FROM outbox.event;
		INSERT INTO chaos.unpended SELECT event_id, now() - interval '2 minutes' FROM outbox.event`)
	require.NoError(t, err)
	found, err := (&fixture{db: db}).evidence(t.Context())([]check.Lookup{{Event: id, After: time.Now().Add(-time.Minute), Before: time.Now().Add(time.Minute)}})
	require.NoError(t, err)
	require.Len(t, found[id].Settled, 1)
	require.Len(t, found[id].Held, 1)
	require.Equal(t, "worker-7", found[id].Held[0].Process)
	require.Len(t, found[id].Undone, 1)
	require.Len(t, found[id].Unpended, 1, "from before it was accepted, too")
	require.True(t, found[id].Settled[0].Before(found[id].Held[0].At))
}

// The record also has each holder of the share of an event's lane, for however long it held the share. If a
// lane was apart, it has when the lane came back to that holder.
func TestAudit_HasWhoHadTheShareOfAnEventsLane(t *testing.T) {
	db, id := auditedEvent(t)
	_, err := db.Exec(t.Context(), `
		INSERT INTO outbox.lane (topic, lane) SELECT topic, lane FROM outbox.event;
		SET application_name = 'worker-1';
		UPDATE outbox.share SET worker = 'a0000000-0000-0000-0000-000000000000', leased_until = now();
		UPDATE chaos.shared SET at = now() - interval '2 hours';
		SET application_name = 'worker-2';
		UPDATE outbox.share SET worker = 'b0000000-0000-0000-0000-000000000000', leased_until = now() + interval '1 minute';
		UPDATE chaos.shared SET at = now() - interval '1 hour' WHERE process = 'worker-2';
		UPDATE outbox.share SET leased_until = now() + interval '2 minutes';
		UPDATE outbox.lane SET apart = true;
		SET application_name = 'worker-3';
		UPDATE outbox.lane SET claim_id = gen_random_uuid(), holder = 'c0000000-0000-0000-0000-000000000000';
		UPDATE outbox.lane SET claim_id = NULL, holder = NULL, apart = false;
		UPDATE outbox.share SET worker = NULL`)
	require.NoError(t, err)
	found, err := (&fixture{db: db}).evidence(t.Context())([]check.Lookup{{Event: id, After: time.Now().Add(-time.Minute), Before: time.Now().Add(time.Minute)}})
	require.NoError(t, err)
	holds := found[id].Held
	require.Len(t, holds, 3, "%v: the share of two hours ago had ended an hour ago, and a renewal is no change", holds)
	for i, want := range []check.Hold{
		{Process: "worker-2", Holder: "b0000000-0000-0000-0000-000000000000", Share: true},
		{Process: "worker-3", Holder: "c0000000-0000-0000-0000-000000000000"},
		{Process: "worker-2", Holder: "b0000000-0000-0000-0000-000000000000", Share: true},
	} {
		want.At = holds[i].At
		require.Equal(t, want, holds[i])
	}
}

// Events stay where they are, and later ones are caught by the default partition.
func TestExhausted_PartitionsLeaveEventsWhereTheyAre(t *testing.T) {
	db, err := pgxpool.New(t.Context(), testenv.DatabaseURL(t))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	const write = `INSERT INTO outbox.event (topic, type, payload) VALUES ('a', 'T', 'x')`
	_, err = db.Exec(t.Context(), `SELECT outbox.make_partition((now() AT TIME ZONE 'UTC')::date + n) FROM generate_series(0, 2) n`)
	require.NoError(t, err)
	_, err = db.Exec(t.Context(), write)
	require.NoError(t, err)
	for n := range 2 {
		_, err = db.Exec(t.Context(), exhaustSQL)
		require.NoError(t, err)
		_, err = db.Exec(t.Context(), write)
		require.NoError(t, err)
		var caught, partitions, all int
		require.NoError(t, db.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM outbox.event_default), (SELECT count(*) FROM outbox.event),
			(SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass)`).Scan(&caught, &all, &partitions))
		require.Equal(t, []int{n + 1, n + 2, 2}, []int{caught, all, partitions}, "today's and the default one are left")
	}
}
