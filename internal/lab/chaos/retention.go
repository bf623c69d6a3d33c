package chaos

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
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
// Maintenance, which does so every two seconds: at each of these instants, some of their
// events are pending, dead, redriven or replayed. The audit in the database has all drops.
// This method counts the refusals.
func (fx *fixture) dropPartitions(ctx context.Context, step plan.Step) error {
	until, needed := time.Now().Add(step.For), false
	// Producers may be in the way of every attempt, or nothing be pending.
	for time.Now().Before(until) || !needed && time.Since(until) < latest {
		days, err := fx.names(ctx, `SELECT day::text FROM `+expiredDays)
		if err != nil {
			fx.say("look for expired partitions: %v", err) // PostgreSQL may be away just now
		}
		fx.makeOldPartitions(ctx)
		for _, day := range days {
			var became string
			// An error is a producer in the way, or Maintenance, which was faster.
			if err := fx.db.QueryRow(ctx, dropPartitionSQL, day).Scan(&became); err == nil && became == "needed" {
				fx.count(partitionNeeded)
				needed = true
			}
		}
		if !wait(ctx, 100*time.Millisecond) {
			break
		}
	}
	return nil
}

const makeOldPartitionSQL = `SELECT outbox.make_partition((now() AT TIME ZONE 'UTC')::date - $1::int)`

// makeOldPartitions makes partitions for backdated events, so that there are some to drop.
// It is not always possible: producers may be in the way, or the default partition has
// events of the day, which retention then deletes there.
func (fx *fixture) makeOldPartitions(ctx context.Context) {
	for age := load.Youngest; age <= load.Oldest; age++ {
		_, _ = fx.db.Exec(ctx, makeOldPartitionSQL, age)
	}
}

// partitionNeeded counts partitions that were not dropped, each time that it was tried.
const partitionNeeded = "partition not dropped: needed"

// exhaustSQL brings about the state after Maintenance has not run for days: the partition
// of today ends now, later days have none, and the default partition catches every event
// from now on. No event moves.
const exhaustSQL = `
DO $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    part  text;
    until timestamptz;
BEGIN
    SET LOCAL lock_timeout = '100ms';
    SET LOCAL timezone = 'UTC';
    LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'outbox.event'::regclass AND c.relname ~ '^event_[0-9]{8}$'
          AND to_date(substr(c.relname, 7), 'YYYYMMDD') >= today
    LOOP
        EXECUTE format('ALTER TABLE outbox.event DETACH PARTITION outbox.%I', part);
        IF part <> 'event_' || to_char(today, 'YYYYMMDD') THEN
            EXECUTE format('DROP TABLE outbox.%I', part);
            CONTINUE;
        END IF;
        EXECUTE format('SELECT greatest(max(created_at), %L) + interval ''1 microsecond'' FROM outbox.%I', today, part) INTO until;
        EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', part, today, until);
    END LOOP;
END $$`

// exhaustPartitions takes away the partitions that Maintenance makes ahead. Maintenance
// makes those of later days again.
func (fx *fixture) exhaustPartitions(ctx context.Context, step plan.Step) error {
	for began := time.Now(); time.Since(began) < latest; {
		if _, err := fx.db.Exec(ctx, exhaustSQL); err == nil {
			fx.count(string(step.Kind))
			wait(ctx, step.For)
			return nil
		}
		if !wait(ctx, 100*time.Millisecond) { // producers are in the way, or PostgreSQL is away
			break
		}
	}
	fx.note("partitions could not be taken away: producers were in the way")
	return errNothingThere
}
