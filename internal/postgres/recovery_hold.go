package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// A topic whose destination is broken is held for its recovery: claims leave it out. The column
// recovery_paused_until has the end of the hold. (Its name is old. Only an operator pauses a topic.)

// holdForRecoverySQL holds a topic for its recovery. It never shortens a hold, and does not touch an
// operator's pause, which is in other columns. If the last hold had expired, the time of the failure
// begins again, because the topic may have been published meanwhile.
const holdForRecoverySQL = `
INSERT INTO outbox.topic AS t (topic, recovery_paused_until, recovery_workflow_id)
VALUES ($1, now() + $2::interval, $3)
ON CONFLICT (topic) DO UPDATE
SET recovery_paused_until = greatest(t.recovery_paused_until, excluded.recovery_paused_until), recovery_workflow_id = excluded.recovery_workflow_id,
    failing_since = CASE WHEN t.recovery_paused_until > now() THEN t.failing_since END`

// HoldForRecovery keeps claims away from a topic until EndRecoveryHold, but at most for the time hold. The
// attempts of the recovery workflowID renew the hold.
func (s *Store) HoldForRecovery(ctx context.Context, topic, workflowID string, hold time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, holdForRecoverySQL, topic, hold, workflowID); err != nil {
		return fmt.Errorf("hold the topic for its recovery: %w", err)
	}
	return nil
}

const noteFailureSQL = `
UPDATE outbox.topic
SET failure_code = $3, failure_message = $4, failure_destination = $5,
    failing_since = coalesce(failing_since, now()), next_attempt_at = now() + $6::interval
WHERE topic = $1 AND recovery_workflow_id = $2`

// NoteFailure records the failure for which a recovery holds a topic; next is the time until the
// recovery's next attempt. It ignores the Failure's own times. It changes nothing if the recovery no
// longer holds the topic.
func (s *Store) NoteFailure(ctx context.Context, topic, workflowID string, f relay.Failure, next time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, noteFailureSQL, topic, workflowID, s.text(f.Code), s.text(f.Message), s.text(f.Destination), next); err != nil {
		return fmt.Errorf("record the failure of a topic: %w", err)
	}
	return nil
}

// recoveryOf is, in a statement, the id of the recovery that holds the topic t, or an empty text.
const recoveryOf = `CASE WHEN t.recovery_paused_until > now() THEN t.recovery_workflow_id ELSE '' END`

// failureFrom and wholeFailure enclose the number of a parameter, timing.FailureStale, and give the failure
// of that recovery as relay.Failure, or null. With shortFailure, the text is short, for the table of all
// topics. There is no failure if its next attempt has been due for longer than FailureStale: a worker of
// an earlier version, which records no failure, may have the recovery.
const (
	failureFrom  = `CASE WHEN t.recovery_paused_until > now() AND t.failing_since IS NOT NULL AND t.next_attempt_at > now() - $`
	wholeFailure = failureThen + `1100` + failureTo
	shortFailure = failureThen + `200` + failureTo

	failureThen = `::interval THEN
           json_build_object('code', t.failure_code, 'message', left(t.failure_message, `
	failureTo = `), 'destination', t.failure_destination, 'since', t.failing_since, 'nextAttemptAt', t.next_attempt_at) END`
)

// endHold is the beginning of a statement that ends holds.
const endHold = `
UPDATE outbox.topic
SET recovery_paused_until = NULL, recovery_workflow_id = NULL,
    failure_code = NULL, failure_message = NULL, failure_destination = NULL, failing_since = NULL, next_attempt_at = NULL
`

const endRecoveryHoldSQL = endHold + `WHERE topic = $1 AND recovery_workflow_id = $2`

// EndRecoveryHold ends the hold of the recovery workflowID, and of no other, and deletes its failure.
func (s *Store) EndRecoveryHold(ctx context.Context, topic, workflowID string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, endRecoveryHoldSQL, topic, workflowID); err != nil {
		return fmt.Errorf("end the hold of a recovery: %w", err)
	}
	return nil
}

// recoveryHoldsSQL lists the holds that last for some time. The sweep cuts a hold without an end.
const recoveryHoldsSQL = `
SELECT topic, recovery_workflow_id, recovery_paused_until FROM outbox.topic
WHERE recovery_paused_until > now() + $1::interval AND recovery_workflow_id IS NOT NULL AND isfinite(recovery_paused_until)
ORDER BY topic`

// RecoveryHolds returns the holds that last for longer than the time left, by topic.
func (s *Store) RecoveryHolds(ctx context.Context, left time.Duration) ([]relay.RecoveryHold, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	holds, err := returned(ctx, s, pgx.RowToStructByPos[relay.RecoveryHold], recoveryHoldsSQL, left)
	if err != nil {
		return nil, fmt.Errorf("list the holds of recoveries: %w", err)
	}
	return holds, nil
}

// abandonHoldSQL ends a hold, and frees the lanes of its claim that wait for another attempt, or all of
// them if $5. If the hold has changed, a recovery is at work, and the statement does nothing. It leaves a
// lane that another transaction has locked: the lane's lease expires.
const abandonHoldSQL = `
WITH ended AS (` + endHold + `WHERE topic = $1 AND recovery_workflow_id = $2 AND recovery_paused_until = $3 RETURNING topic),
kept AS (
    SELECT l.topic, l.lane FROM ended JOIN outbox.lane l USING (topic)
    WHERE l.claim_id::text = $4 AND (l.retrying OR $5)
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l SKIP LOCKED),
released AS (
    UPDATE outbox.lane l
    SET claim_id = NULL, holder = NULL, retrying = false, leased_until = NULL, claimed_by = NULL
    FROM kept WHERE l.topic = kept.topic AND l.lane = kept.lane)
SELECT EXISTS (SELECT FROM ended)`

// AbandonHold ends a hold that RecoveryHolds has returned and whose recovery has ended, and deletes its
// failure. It also frees the lanes of the recovery's claim that wait for another attempt. noAttempt says that
// no attempt of the recovery is at work: then AbandonHold frees all lanes of the claim. AbandonHold reports
// false, and changes nothing, if the hold has been renewed or has ended since.
func (s *Store) AbandonHold(ctx context.Context, h relay.RecoveryHold, claimID string, noAttempt bool) (abandoned bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	row := s.pool.QueryRow(ctx, abandonHoldSQL, h.Topic, h.WorkflowID, h.Until, claimID, noAttempt)
	if err := row.Scan(&abandoned); err != nil {
		return false, fmt.Errorf("end the hold of a recovery that has ended: %w", err)
	}
	return abandoned, nil
}
