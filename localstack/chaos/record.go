package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/localstack/chaos/check"
)

// keepRecordSQL makes the harness's own database remember what passes through tables
// whose rows go: which events were replayed under which number, and what died. A row
// that is redriven comes a second time and is the same replay.
const keepRecordSQL = `
CREATE SCHEMA IF NOT EXISTS chaos;
CREATE TABLE chaos.replayed (
    id bigint, created_at timestamptz, replay bigint, at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, replay));
CREATE FUNCTION chaos.replayed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.replayed (id, created_at, replay) VALUES (NEW.id, NEW.created_at, NEW.replay)
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
    FOR EACH ROW EXECUTE FUNCTION chaos.died()`

func (b *bed) keepRecord(ctx context.Context) error {
	if _, err := b.db.Exec(ctx, keepRecordSQL); err != nil {
		return fmt.Errorf("keep a record of replays and dead letters: %w", err)
	}
	return nil
}

// replaysSQL gives a replay of an event that is not there no event id, which no
// producer has written.
const replaysSQL = `
SELECT coalesce(e.event_id::text, ''), r.replay, r.at
FROM chaos.replayed r LEFT JOIN outbox.event e USING (id, created_at)`

// replays are all that were made pending, by event id.
func (b *bed) replays(ctx context.Context) (map[string][]check.Replay, error) {
	rows, err := b.db.Query(ctx, replaysSQL)
	if err != nil {
		return nil, fmt.Errorf("look up replays: %w", err)
	}
	replays := map[string][]check.Replay{}
	var id string
	var number int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &number, &at}, func() error {
		replays[id] = append(replays[id], check.Replay{Number: number, At: at})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up replays: %w", err)
	}
	return replays, nil
}

const operationsSQL = `
SELECT (SELECT coalesce(json_object_agg(code, n), '{}') FROM (SELECT code, count(*) AS n FROM chaos.died GROUP BY code) d),
       (SELECT count(*) FROM chaos.replayed),
       (SELECT coalesce(sum(done), 0)::bigint FROM outbox.operation WHERE kind = 'redrive')`

func (b *bed) operations(ctx context.Context) (o Operations, err error) {
	err = b.db.QueryRow(ctx, operationsSQL).Scan(&o.Dead, &o.Replayed, &o.Redriven)
	if err != nil {
		return o, fmt.Errorf("count operations: %w", err)
	}
	return o, nil
}
