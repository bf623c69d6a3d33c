package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
	"github.com/temporal-outbox/relay/schema"
)

// insertPast inserts an event that never becomes pending, and returns its event id.
func (o testOutbox) insertPast(how string) outbox.ID {
	o.t.Helper()
	const insert = `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', 'x')`
	switch how {
	case "replica role":
		_, err := o.superuser().Exec(o.t.Context(), `SET session_replication_role = replica; `+insert)
		require.NoError(o.t, err)
	case "partition":
		o.exec(`DO $$ BEGIN EXECUTE format('INSERT INTO outbox.%I (id, topic, key, type, payload) VALUES (1, ''orders'', ''k'', ''T'', ''x'')',
			'event_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')); END $$`)
	case "disabled trigger":
		o.exec(`ALTER TABLE outbox.event DISABLE TRIGGER enqueue`)
		o.exec(insert)
		o.exec(`ALTER TABLE outbox.event ENABLE TRIGGER enqueue`)
	}
	require.Zero(o.t, o.pending())
	id, err := outbox.ParseID(query[string](o, `SELECT event_id::text FROM outbox.event`))
	require.NoError(o.t, err)
	return id
}

// The outbox keeps no record of publication.
func TestWhere_NeverSaysPublishedOfWhatWasNeverEnqueued(t *testing.T) {
	for _, how := range []string{"replica role", "partition", "disabled trigger"} {
		t.Run(how, func(t *testing.T) {
			o := open(t)
			id := o.insertPast(how)
			require.Equal(t, StateNotPending, query[string](o, `SELECT state FROM outbox.status`))
			found, err := o.ByEventID(t.Context(), id, nil)
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.Equal(t, StateNotPending, found[0].State)

			// A replay publishes it.
			o.exec(`INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 0)`)
			n, _, err := o.CountPublished(t.Context(), "orders", relay.Selection{}, nil)
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
		})
	}
}

func TestWhere_SaysTheStateOfTheFirstDelivery(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	id, err := outbox.ParseID(query[string](o, `SELECT event_id::text FROM outbox.event`))
	require.NoError(t, err)
	for _, c := range []struct{ state, then string }{
		{"pending", `UPDATE outbox.pending SET replay = 7`},
		{StateNotPending, `WITH gone AS (DELETE FROM outbox.pending RETURNING *)
			INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
			SELECT topic, lane, id, created_at, bytes, 'X', 'x', 1, 'w' FROM gone`},
		{"dead", `SELECT 1`},
	} {
		found, err := o.ByEventID(t.Context(), id, nil)
		require.NoError(t, err)
		require.Equal(t, c.state, found[0].State)
		require.Equal(t, c.state == StateNotPending, found[0].Published)
		o.exec(c.then)
	}
}

func TestEnqueue_SaysWhatKeepsEventsFromBecomingPending(t *testing.T) {
	for name, c := range map[string]struct{ sql, failed, warned string }{
		"all is well":             {`SELECT 1`, "", ""},
		"always":                  {`ALTER TABLE outbox.event ENABLE ALWAYS TRIGGER enqueue`, "", ""},
		"disabled":                {`ALTER TABLE outbox.event DISABLE TRIGGER enqueue`, "ALTER TABLE outbox.event ENABLE TRIGGER enqueue", ""},
		"all disabled":            {`ALTER TABLE outbox.event DISABLE TRIGGER USER`, "starter replay", ""},
		"enabled for replicas":    {`ALTER TABLE outbox.event ENABLE REPLICA TRIGGER enqueue`, "ALTER TABLE outbox.event ENABLE TRIGGER enqueue", ""},
		"dropped":                 {`DROP TRIGGER enqueue ON outbox.event`, "no trigger", ""},
		"a database's setting":    {`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$`, "", "session_replication_role"},
		"a setting that is right": {`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = origin', current_database()); END $$`, "", ""},
		"a right on a partition": {`DO $$ BEGIN EXECUTE format('GRANT INSERT ON outbox.%I TO outbox_producer',
			'event_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')); END $$`, "", "outbox_producer may insert into partitions"},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.exec(schema.RolesSQL)
			_, err := o.superuser().Exec(t.Context(), c.sql)
			require.NoError(t, err)
			found, err := o.Enqueue(t.Context())
			require.NoError(t, err)
			for text, problem := range map[string]error{c.failed: found.Failure(), c.warned: found.Warning()} {
				if text == "" {
					require.NoError(t, problem)
				} else {
					require.ErrorContains(t, problem, text)
				}
			}
			h, err := o.Health(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.failed+c.warned != "", h.NotEnqueued != "")
		})
	}
}
