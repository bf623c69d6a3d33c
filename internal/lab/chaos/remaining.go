package chaos

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

// remainingSQL finds everything that should be gone at the end.
//
//   - It leaves out requests to recoveries: a recovery answers when it can, and a
//     terminated one never answers.
//   - A replay is incomplete if it ended with fewer events than were counted before it. A
//     published event stays published until its partition is dropped.
//   - It leaves out operations that had ended on an old primary and are under way on the
//     new one: their workflows have ended, and docs/runbook.md tells operators how to end
//     the record.
//   - A partition is kept if retention should have dropped it when nothing else was left.
const remainingSQL = `
SELECT 'pending', format('%s: %s events, the oldest of %s', topic, count(*), min(created_at)::time(0)) FROM outbox.pending GROUP BY topic
UNION ALL
SELECT 'leased', format('%s: %s lanes until %s', topic, count(*), max(leased_until)::time(0))
FROM outbox.lane WHERE leased_until > now() GROUP BY topic
UNION ALL
SELECT 'paused', format('%s: by %s', topic, coalesce(paused_by, recovery_workflow_id))
FROM outbox.topic WHERE paused_at IS NOT NULL OR recovery_paused_until > now()
UNION ALL
SELECT 'dead', format('%s: %s events, such as %s: %s', topic, count(*), min(code), min(message)) FROM outbox.dead_letter GROUP BY topic
UNION ALL
SELECT 'under way', format('%s %s: %s of %s events, since %s', kind, topic, done, matched, at::time(0)) FROM outbox.operation
WHERE finished_at IS NULL AND kind NOT LIKE 'recover-%' AND id NOT IN (SELECT id FROM chaos.set_back)
UNION ALL
SELECT 'incomplete', format('%s %s, operation %s: %s of %s events: %s', kind, topic, id, done, matched, outcome) FROM outbox.operation
WHERE id NOT IN (SELECT id FROM chaos.set_back) AND (outcome NOT IN ('', 'done') AND kind NOT LIKE 'recover-%' OR kind = 'replay' AND finished_at IS NOT NULL AND done + (
    SELECT count(*) FROM chaos.event e
    WHERE e.gone_at >= operation.at AND e.topic = operation.topic AND e.key = coalesce(selection ->> 'key', e.key)
      AND e.created_at >= coalesce((selection ->> 'since')::timestamptz, e.created_at)
      AND NOT EXISTS (SELECT FROM chaos.replayed r WHERE r.id = e.id AND r.replay = operation.id)) < matched)
UNION ALL
SELECT 'kept', 'the partition of ' || day FROM ` + expiredDays + `
UNION ALL
SELECT 'kept', format('%s events of %s in the default partition', count(*), created_at::date) FROM outbox.event_default
WHERE created_at < (now() AT TIME ZONE 'UTC')::date - ` + keepDays + ` GROUP BY created_at::date`

// remaining returns the unfinished work in the outbox's tables.
func (fx *fixture) remaining(ctx context.Context) ([]check.Remaining, error) {
	rows, err := fx.db.Query(ctx, remainingSQL)
	if err != nil {
		return nil, fmt.Errorf("look what is left: %w", err)
	}
	left, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l check.Remaining, err error) {
		return l, row.Scan(&l.What, &l.Text)
	})
	if err != nil {
		return nil, fmt.Errorf("look what is left: %w", err)
	}
	return left, nil
}
