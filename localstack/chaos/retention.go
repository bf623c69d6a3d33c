package chaos

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/localstack/chaos/plan"
)

// keepDays is for how many days Maintenance keeps events. Backdated ones
// (load.Youngest) are older at every time of day, and their partitions are dropped
// whenever nothing of them is pending or dead.
const keepDays = "1"

// expiredDays are the days whose partitions retention is to drop.
const expiredDays = `(
    SELECT day FROM (SELECT to_date(substr(c.relname, 7), 'YYYYMMDD') AS day
                     FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                     WHERE i.inhparent = 'outbox.event'::regclass AND c.relname ~ '^event_[0-9]{8}$') partition
    WHERE day < (now() AT TIME ZONE 'UTC')::date - ` + keepDays + `) expired`

const dropPartitionSQL = `SELECT outbox.drop_partition($1::text::date)`

// dropPartitions tries to drop the expired partitions again and again, beside
// Maintenance, which does so every two seconds: at every instant that there is, some
// of their events are pending, dead, redriven or replayed. What it did is on record,
// whoever did it; counted is here what was refused.
func (b *bed) dropPartitions(ctx context.Context, step plan.Step) error {
	until, needed := time.Now().Add(step.For), false
	// Producers may be in the way of every attempt, or nothing be pending.
	for time.Now().Before(until) || !needed && time.Since(until) < latest {
		days, err := b.names(ctx, `SELECT day::text FROM `+expiredDays)
		if err != nil {
			b.say("look for expired partitions: %v", err) // PostgreSQL may be away just now
		}
		for _, day := range days {
			var became string
			// An error is a producer in the way, or Maintenance, which was faster.
			if err := b.db.QueryRow(ctx, dropPartitionSQL, day).Scan(&became); err == nil && became == "needed" {
				b.count(partitionNeeded)
				needed = true
			}
		}
		if !wait(ctx, 100*time.Millisecond) {
			break
		}
	}
	return nil
}

// partitionNeeded counts partitions that were not dropped, each time that it was tried.
const partitionNeeded = "partition not dropped: needed"

// exhaustSQL brings about the state after Maintenance has not run for days: there is no
// partition for today and later days, and the default partition has their events. It locks
// out producers and the relay while it runs, so that the move itself does no harm.
const exhaustSQL = `
DO $$
DECLARE
    part    text;
    columns text := 'id, event_id, topic, key, type, payload, content_type, attributes, created_at';
BEGIN
    SET LOCAL lock_timeout = '100ms';
    LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'outbox.event'::regclass AND c.relname ~ '^event_[0-9]{8}$'
          AND to_date(substr(c.relname, 7), 'YYYYMMDD') >= (now() AT TIME ZONE 'UTC')::date
    LOOP
        EXECUTE format('ALTER TABLE outbox.event DETACH PARTITION outbox.%I', part);
        EXECUTE format('INSERT INTO outbox.event_default (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM outbox.%I', columns, columns, part);
        EXECUTE format('DROP TABLE outbox.%I', part);
    END LOOP;
END $$`

// fewToday reports whether today's events can be moved in a moment.
const fewToday = `SELECT count(*) < 20000 FROM outbox.event WHERE created_at >= (now() AT TIME ZONE 'UTC')::date`

// exhaustPartitions takes the partitions of today and tomorrow away. Maintenance makes them
// again while events are written, and moves what the default partition has caught.
func (b *bed) exhaustPartitions(ctx context.Context, step plan.Step) error {
	for began := time.Now(); time.Since(began) < latest; {
		var few bool
		err := b.db.QueryRow(ctx, fewToday).Scan(&few)
		if err == nil && !few {
			return errNothingThere
		}
		if err == nil {
			_, err = b.db.Exec(ctx, exhaustSQL)
		}
		if err == nil {
			b.count(string(step.Kind))
			wait(ctx, step.For)
			return nil
		}
		if !wait(ctx, 100*time.Millisecond) { // producers are in the way, or PostgreSQL is away
			break
		}
	}
	b.note("partitions could not be taken away: producers were in the way")
	return errNothingThere
}
