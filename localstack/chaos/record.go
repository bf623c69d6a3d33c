package chaos

import (
	"context"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/localstack/chaos/check"
)

// keepRecordSQL makes the harness's own database remember what passes through tables
// whose rows go: which events were committed, which were replayed under which number,
// what died, and what was discarded. A row that is redriven comes a second time and is
// the same replay.
const keepRecordSQL = `
CREATE SCHEMA IF NOT EXISTS chaos;
CREATE TABLE chaos.event (
    id bigint PRIMARY KEY, created_at timestamptz, event_id uuid, topic text, key text,
    gone_at timestamptz); -- by retention
CREATE INDEX ON chaos.event (created_at);
CREATE FUNCTION chaos.written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.event (id, created_at, event_id, topic, key)
    SELECT id, created_at, event_id, topic, key FROM inserted;
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
CREATE TABLE chaos.died (code text);
CREATE FUNCTION chaos.died() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.died (code) VALUES (NEW.code);
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
CREATE FUNCTION chaos.deleted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE chaos.event e SET gone_at = clock_timestamp() FROM gone WHERE e.id = gone.id AND e.created_at = gone.created_at;
    INSERT INTO chaos.dropped (partition, at, events, needed)
    SELECT 'the default partition', clock_timestamp(), (SELECT count(*) FROM gone), count(*) FROM gone
    WHERE EXISTS (SELECT FROM outbox.pending p WHERE p.id = gone.id)
       OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.id = gone.id)
    HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_deleted AFTER DELETE ON outbox.event_default
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chaos.deleted()`

// watchDropsSQL has PostgreSQL itself note what goes with a partition, in the
// transaction that drops it and whoever does that: how many events, and how many of
// them are pending or dead at that instant.
const watchDropsSQL = `
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
        WITH gone AS (
            UPDATE chaos.event e SET gone_at = clock_timestamp()
            WHERE e.created_at >= day AND e.created_at < day + interval '1 day' AND e.gone_at IS NULL
              AND NOT EXISTS (SELECT FROM outbox.event o WHERE o.id = e.id AND o.created_at = e.created_at)
            RETURNING id)
        INSERT INTO chaos.dropped (partition, at, events, needed)
        SELECT name, clock_timestamp(), (SELECT count(*) FROM gone),
               (SELECT count(*) FROM gone WHERE EXISTS (SELECT FROM outbox.pending p WHERE p.id = gone.id)
                                             OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.id = gone.id));
    END LOOP;
END $$;
CREATE EVENT TRIGGER chaos_dropped ON sql_drop EXECUTE FUNCTION chaos.dropped()`

func (b *bed) keepRecord(ctx context.Context) error {
	if _, err := b.db.Exec(ctx, keepRecordSQL); err != nil {
		return fmt.Errorf("keep a record of events and operations: %w", err)
	}
	// Only a superuser may watch what others drop. That of the stack needs no password.
	u, err := url.Parse(b.env.Get("DATABASE_URL"))
	if err != nil {
		return err
	}
	u.User = url.User("postgres")
	super, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return fmt.Errorf("connect as a superuser: %w", err)
	}
	defer super.Close(context.WithoutCancel(ctx))
	if _, err := super.Exec(ctx, watchDropsSQL); err != nil {
		return fmt.Errorf("watch what is dropped: %w", err)
	}
	return nil
}

// committedSQL gives every event that was ever committed.
const committedSQL = `SELECT event_id::text FROM chaos.event`

// What was replayed or discarded of an event that nobody wrote has no event id, and the
// checker complains.
const (
	replaysSQL  = `SELECT coalesce(e.event_id::text, ''), r.replay, r.at FROM chaos.replayed r LEFT JOIN chaos.event e USING (id)`
	discardsSQL = `SELECT coalesce(e.event_id::text, ''), x.replay FROM chaos.discarded x LEFT JOIN chaos.event e USING (id)`
	dropsSQL    = `SELECT partition, at, events, needed FROM chaos.dropped ORDER BY at`
	vanishedSQL = `
SELECT e.event_id::text FROM chaos.event e
WHERE e.gone_at IS NULL AND NOT EXISTS (SELECT FROM outbox.event o WHERE o.id = e.id AND o.created_at = e.created_at)`
)

// recorded adds to the facts what the database has remembered.
func (b *bed) recorded(ctx context.Context, f *check.Facts) error {
	f.Replays, f.Discards = map[string][]check.Replay{}, map[string][]int64{}
	var id string
	var replay check.Replay
	var number int64
	var drop check.Drop
	for _, r := range []struct {
		sql   string
		scans []any
		add   func()
	}{
		{replaysSQL, []any{&id, &replay.Number, &replay.At}, func() { f.Replays[id] = append(f.Replays[id], replay) }},
		{discardsSQL, []any{&id, &number}, func() { f.Discards[id] = append(f.Discards[id], number) }},
		{dropsSQL, []any{&drop.Partition, &drop.At, &drop.Events, &drop.Needed}, func() { f.Drops = append(f.Drops, drop) }},
		{vanishedSQL, []any{&id}, func() { f.Vanished = append(f.Vanished, id) }},
	} {
		rows, err := b.db.Query(ctx, r.sql)
		if err == nil {
			_, err = pgx.ForEachRow(rows, r.scans, func() error { r.add(); return nil })
		}
		if err != nil {
			return fmt.Errorf("look up what was recorded: %w", err)
		}
	}
	return nil
}

const operationsSQL = `
SELECT (SELECT coalesce(json_object_agg(code, n), '{}') FROM (SELECT code, count(*) AS n FROM chaos.died GROUP BY code) d),
       (SELECT count(*) FROM chaos.replayed),
       (SELECT coalesce(sum(done), 0)::bigint FROM outbox.operation WHERE kind = 'redrive'),
       (SELECT count(*) FROM chaos.discarded),
       (SELECT count(*) FROM chaos.replayed r JOIN chaos.event e USING (id) WHERE e.created_at < r.at - interval '` + keepDays + ` days')`

func (b *bed) operations(ctx context.Context) (o Operations, err error) {
	err = b.db.QueryRow(ctx, operationsSQL).Scan(&o.Dead, &o.Replayed, &o.Redriven, &o.Discarded, &o.ReplayedOld)
	if err != nil {
		return o, fmt.Errorf("count operations: %w", err)
	}
	return o, nil
}
