package chaos

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/localstack/chaos/load"
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
		b.makeOldPartitions(ctx)
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

const makeOldPartitionSQL = `SELECT outbox.make_partition((now() AT TIME ZONE 'UTC')::date - $1::int)`

// makeOldPartitions makes partitions for backdated events, so that there are some to drop.
// It is not always possible: producers may be in the way, or the default partition has
// events of the day, which retention then deletes there.
func (b *bed) makeOldPartitions(ctx context.Context) {
	for age := load.Youngest; age <= load.Oldest; age++ {
		_, _ = b.db.Exec(ctx, makeOldPartitionSQL, age)
	}
}

// partitionNeeded counts partitions that were not dropped, each time that it was tried.
const partitionNeeded = "partition not dropped: needed"
