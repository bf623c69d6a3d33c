package chaos

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

// goneButNeeded is true of an event in gone that is pending or dead. Its lane is compared
// because the tables have no index on id alone.
const goneButNeeded = `(
        EXISTS (SELECT FROM outbox.pending p WHERE p.topic = gone.topic AND p.lane = gone.lane AND p.id = gone.id)
     OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.topic = gone.topic AND d.lane = gone.lane AND d.id = gone.id))`

// auditSQL has the database record changes of tables whose rows do not stay: events
// that are committed, replays and their numbers, the time at which a row leaves
// outbox.pending, or is put there by another statement than the INSERT of its event, dead
// letters, discards, and the time at which a lane, or a share, gets another holder. A row that is
// redriven comes a second time and is the same replay.
const auditSQL = `
CREATE SCHEMA IF NOT EXISTS chaos;
CREATE TABLE chaos.event (
    id bigint PRIMARY KEY, created_at timestamptz, event_id uuid, topic text, key text, lane smallint,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    gone_at timestamptz); -- by retention
CREATE INDEX ON chaos.event (created_at);
CREATE INDEX ON chaos.event (at);
CREATE INDEX ON chaos.event (event_id);
CREATE INDEX ON chaos.event (gone_at) WHERE gone_at IS NOT NULL;
CREATE FUNCTION chaos.written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.event (id, created_at, event_id, topic, key, lane)
    SELECT id, created_at, event_id, topic, key, lane FROM inserted;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_written AFTER INSERT ON outbox.event
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION chaos.written();
CREATE TABLE chaos.replayed (id bigint, replay bigint, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, replay));
CREATE FUNCTION chaos.replayed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.replayed (id, replay) VALUES (NEW.id, NEW.replay)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_replayed AFTER INSERT ON outbox.pending
    FOR EACH ROW WHEN (NEW.replay > 0) EXECUTE FUNCTION chaos.replayed();
CREATE TABLE chaos.pended (id bigint, created_at timestamptz, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON chaos.pended (id);
CREATE FUNCTION chaos.pended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.pended (id, created_at) VALUES (NEW.id, NEW.created_at);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_pended AFTER INSERT ON outbox.pending
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION chaos.pended();
CREATE TABLE chaos.settled (id bigint, created_at timestamptz, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON chaos.settled (at);
CREATE INDEX ON chaos.settled (id);
CREATE FUNCTION chaos.settled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.settled (id, created_at) SELECT id, created_at FROM gone;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_settled AFTER DELETE ON outbox.pending
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chaos.settled();
CREATE TABLE chaos.held (topic text, lane smallint, at timestamptz NOT NULL DEFAULT clock_timestamp(), holder uuid,
    process text NOT NULL DEFAULT current_setting('application_name'), -- each worker has a name of its own
    share boolean NOT NULL DEFAULT false, -- it came back to the holder of its share
    lost boolean NOT NULL DEFAULT false); -- with an old primary
CREATE INDEX ON chaos.held (at);
CREATE INDEX ON chaos.held (topic, lane, at);
CREATE TABLE chaos.shared (lane smallint, at timestamptz NOT NULL DEFAULT clock_timestamp(), holder uuid,
    process text NOT NULL DEFAULT current_setting('application_name'), lost boolean NOT NULL DEFAULT false);
CREATE FUNCTION chaos.shared() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.shared (lane, holder) VALUES (NEW.lane, NEW.worker);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_shared AFTER UPDATE ON outbox.share
    FOR EACH ROW WHEN (NEW.worker IS NOT NULL AND NEW.worker IS DISTINCT FROM OLD.worker) EXECUTE FUNCTION chaos.shared();
CREATE FUNCTION chaos.rejoined() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.held (topic, lane, holder, process, share)
    SELECT NEW.topic, NEW.lane, s.worker,
           coalesce((SELECT h.process FROM chaos.shared h WHERE h.lane = NEW.lane AND h.holder = s.worker ORDER BY h.at DESC LIMIT 1), ''), true
    FROM outbox.share s WHERE s.lane = NEW.lane AND s.worker IS NOT NULL AND s.leased_until >= now();
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_rejoined AFTER UPDATE ON outbox.lane
    FOR EACH ROW WHEN (NOT NEW.apart AND NEW.claim_id IS NULL AND (OLD.apart OR OLD.claim_id IS NOT NULL)) EXECUTE FUNCTION chaos.rejoined();
CREATE FUNCTION chaos.held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.held (topic, lane, holder) VALUES (NEW.topic, NEW.lane, NEW.holder);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_held AFTER UPDATE ON outbox.lane
    FOR EACH ROW WHEN (NEW.holder IS NOT NULL AND NEW.holder IS DISTINCT FROM OLD.holder) EXECUTE FUNCTION chaos.held();
CREATE TABLE chaos.died (id bigint, created_at timestamptz, code text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION chaos.died() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.died (id, created_at, code) VALUES (NEW.id, NEW.created_at, NEW.code);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_died AFTER INSERT ON outbox.dead_letter
    FOR EACH ROW EXECUTE FUNCTION chaos.died();
CREATE TABLE chaos.discarded (id bigint, replay bigint);
CREATE FUNCTION chaos.discarded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.discarded (id, replay) VALUES (NEW.id, NEW.replay);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_discarded AFTER INSERT ON outbox.discarded
    FOR EACH ROW EXECUTE FUNCTION chaos.discarded();
CREATE TABLE chaos.dropped (partition text, at timestamptz, events bigint, needed bigint);
CREATE TABLE chaos.neighbour (at timestamptz); -- other applications write to it
CREATE FUNCTION chaos.deleted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE chaos.event e SET gone_at = clock_timestamp() FROM gone WHERE e.id = gone.id AND e.created_at = gone.created_at;
    INSERT INTO chaos.dropped (partition, at, events, needed)
    SELECT 'the default partition', clock_timestamp(), (SELECT count(*) FROM gone), count(*) FROM gone
    WHERE ` + goneButNeeded + `
    HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_deleted AFTER DELETE ON outbox.event_default
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chaos.deleted();
` + oldPrimarySQL

// auditDropsSQL has PostgreSQL itself count the events of each dropped partition, and
// those of them that are pending or dead at that instant. It counts in the transaction
// that drops the partition, so no drop is missed.
const auditDropsSQL = `
CREATE FUNCTION chaos.dropped() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    name text;
    day  timestamptz;
BEGIN
    FOR name IN
        SELECT object_name FROM pg_event_trigger_dropped_objects()
        WHERE object_type = 'table' AND schema_name = 'outbox' AND object_name ~ '^event_[0-9]{8}$'
    LOOP
        day := to_date(substr(name, 7), 'YYYYMMDD');
        CONTINUE WHEN day >= (now() AT TIME ZONE 'UTC')::date; -- the harness itself, and the events are kept
        WITH gone AS (
            UPDATE chaos.event e SET gone_at = clock_timestamp()
            WHERE e.created_at >= day AND e.created_at < day + interval '1 day' AND e.gone_at IS NULL
              AND NOT EXISTS (SELECT FROM outbox.event o WHERE o.id = e.id AND o.created_at = e.created_at)
            RETURNING topic COLLATE "C" AS topic, lane, id)
        INSERT INTO chaos.dropped (partition, at, events, needed)
        SELECT name, clock_timestamp(), (SELECT count(*) FROM gone),
               (SELECT count(*) FROM gone WHERE ` + goneButNeeded + `);
    END LOOP;
END $$;
CREATE EVENT TRIGGER chaos_dropped ON sql_drop EXECUTE FUNCTION chaos.dropped()`

func (fx *fixture) createAudit(ctx context.Context) error {
	if _, err := fx.db.Exec(ctx, auditSQL); err != nil {
		return fmt.Errorf("keep a record of events and operations: %w", err)
	}
	// Only a superuser may watch what others drop. That of the stack needs no password.
	u, err := url.Parse(fx.env.Get("DATABASE_URL"))
	if err != nil {
		return err
	}
	u.User = url.User("postgres")
	super, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return fmt.Errorf("connect as a superuser: %w", err)
	}
	defer super.Close(context.WithoutCancel(ctx))
	if _, err := super.Exec(ctx, auditDropsSQL); err != nil {
		return fmt.Errorf("watch what is dropped: %w", err)
	}
	return nil
}

// A replay or a discard of an event without a producer has no event id, and the
// checker complains.
const (
	keptSQL        = `SELECT event_id::text, 0::bigint, at FROM chaos.event`
	lostSQL        = `SELECT event_id::text, 0::bigint, now() FROM chaos.lost_event`
	replaysSQL     = `SELECT coalesce(e.event_id::text, ''), r.replay, r.at FROM chaos.replayed r LEFT JOIN chaos.event e USING (id)`
	lostReplaysSQL = `SELECT event_id::text, replay, at FROM chaos.lost_replay`
	discardsSQL    = `SELECT coalesce(e.event_id::text, ''), x.replay, now() FROM chaos.discarded x LEFT JOIN chaos.event e USING (id)`
	dropsSQL       = `SELECT partition, at, events, needed FROM chaos.dropped ORDER BY at`
	vanishedSQL    = `
SELECT e.event_id::text FROM chaos.event e
WHERE e.gone_at IS NULL AND NOT EXISTS (SELECT FROM outbox.event o WHERE o.id = e.id AND o.created_at = e.created_at)`
	// The code is relay.CodeEventMissing.
	missingSQL = `
SELECT DISTINCT e.event_id::text FROM chaos.died d JOIN chaos.event e USING (id, created_at)
WHERE d.code = 'EventMissing' AND (e.gone_at IS NULL OR e.gone_at > d.at)`
)

// recorded adds the records of the audit to the facts and to the observations.
func (fx *fixture) recorded(ctx context.Context, f *check.Facts) error {
	var id string
	var number int64
	var at time.Time
	var drop check.Drop
	event := []any{&id, &number, &at}
	note := func(as what) func() {
		return func() { fx.observed.noted(noted{ID: id, What: as, Number: number, At: at}) }
	}
	for _, r := range []struct {
		sql   string
		scans []any
		add   func()
	}{
		{keptSQL, event, note(isKept)},
		{lostSQL, event, note(isLost)},
		{replaysSQL, event, note(isReplayed)},
		{lostReplaysSQL, event, note(replayIsLost)},
		{discardsSQL, event, note(isDiscarded)},
		{dropsSQL, []any{&drop.Partition, &drop.At, &drop.Events, &drop.Needed}, func() { f.Drops = append(f.Drops, drop) }},
		{vanishedSQL, []any{&id}, func() { f.Vanished = append(f.Vanished, id) }},
		{missingSQL, []any{&id}, func() { f.Missing = append(f.Missing, id) }},
	} {
		rows, err := fx.db.Query(ctx, r.sql)
		if err == nil {
			_, err = pgx.ForEachRow(rows, r.scans, func() error { r.add(); return nil })
		}
		if err != nil {
			return fmt.Errorf("look up what was recorded: %w", err)
		}
	}
	return nil
}

const (
	askedFor = `unnest($1::text[]::uuid[], $2::timestamptz[], $3::timestamptz[]) AS l(event_id, after, before)`
	// Materialized: the planner expects one row of a join of events with their settlements,
	// and would compare each of a million with each event that is looked up.
	lookedUp   = `WITH l AS MATERIALIZED (SELECT * FROM ` + askedFor + ` JOIN chaos.event e USING (event_id)) `
	settledSQL = lookedUp + `SELECT event_id::text, s.at, '', '', false, false FROM l JOIN chaos.settled s USING (id, created_at)
		WHERE s.at <= l.before ORDER BY s.at`
	pendedSQL = lookedUp + `SELECT event_id::text, p.at, '', '', false, false FROM l JOIN chaos.pended p USING (id, created_at)
		WHERE p.at <= l.before ORDER BY p.at`
	undoneSQL = `SELECT event_id::text, u.at, '', '', false, false FROM ` + askedFor + ` JOIN chaos.undone u USING (event_id)
		WHERE u.at BETWEEN l.after AND l.before ORDER BY u.at`
	// From before the event was accepted: it was pending by then.
	unpendedSQL = `SELECT event_id::text, u.at, '', '', false, false FROM ` + askedFor + ` JOIN chaos.unpended u USING (event_id)
		WHERE u.at <= l.before ORDER BY u.at`
	// From before the event was accepted: whose batch it was, or who had the share, for however long.
	heldSQL = lookedUp + `
		SELECT event_id::text, h.at, h.holder::text, h.process, h.share, h.lost FROM l JOIN chaos.held h USING (topic, lane)
		WHERE h.at BETWEEN l.after - interval '3 minutes' AND l.before
		UNION ALL
		SELECT event_id::text, s.at, s.holder::text, s.process, true, s.lost
		FROM l JOIN (SELECT *, lead(at, 1, 'infinity') OVER (PARTITION BY lane ORDER BY at) AS until FROM chaos.shared) s USING (lane)
		WHERE s.at <= l.before AND s.until >= l.after - interval '3 minutes'
		ORDER BY 2`
)

// evidence looks up the database's records about events that came twice.
func (fx *fixture) evidence(ctx context.Context) func([]check.Lookup) (map[string]check.Evidence, error) {
	return func(all []check.Lookup) (map[string]check.Evidence, error) {
		found := make(map[string]check.Evidence, len(all))
		ids, after, before := make([]string, len(all)), make([]time.Time, len(all)), make([]time.Time, len(all))
		for i, l := range all {
			ids[i], after[i], before[i] = l.Event, l.After, l.Before
		}
		var id string
		var hold check.Hold
		for _, r := range []struct {
			sql string
			add func(*check.Evidence)
		}{
			{settledSQL, func(e *check.Evidence) { e.Settled = append(e.Settled, hold.At) }},
			{pendedSQL, func(e *check.Evidence) { e.Pended = append(e.Pended, hold.At) }},
			{undoneSQL, func(e *check.Evidence) { e.Undone = append(e.Undone, hold.At) }},
			{unpendedSQL, func(e *check.Evidence) { e.Unpended = append(e.Unpended, hold.At) }},
			{heldSQL, func(e *check.Evidence) { e.Held = append(e.Held, hold) }},
		} {
			rows, err := fx.db.Query(ctx, r.sql, ids, after, before)
			if err == nil {
				_, err = pgx.ForEachRow(rows, []any{&id, &hold.At, &hold.Holder, &hold.Process, &hold.Share, &hold.Lost}, func() error {
					e := found[id]
					r.add(&e)
					found[id] = e
					return nil
				})
			}
			if err != nil {
				return nil, err
			}
		}
		return found, nil
	}
}

const operationsSQL = `
SELECT (SELECT coalesce(json_object_agg(code, n), '{}') FROM (SELECT code, count(*) AS n FROM chaos.died GROUP BY code) d),
       (SELECT count(*) FROM chaos.replayed),
       (SELECT coalesce(sum(done), 0)::bigint FROM outbox.operation WHERE kind = 'redrive'),
       (SELECT count(*) FROM chaos.discarded),
       (SELECT count(*) FROM chaos.replayed r JOIN chaos.event e USING (id) WHERE e.created_at < r.at - interval '` + keepDays + ` days'),
       (SELECT count(*) FROM chaos.event WHERE gone_at IS NOT NULL)`

func (fx *fixture) operations(ctx context.Context) (o Operations, err error) {
	err = fx.db.QueryRow(ctx, operationsSQL).Scan(&o.Dead, &o.Replayed, &o.Redriven, &o.Discarded, &o.ReplayedOld, &o.gone)
	if err != nil {
		return o, fmt.Errorf("count operations: %w", err)
	}
	return o, nil
}
