package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// StateNotPending is the state of an event that was published or never became pending: see Enqueue. Only
// receipts distinguish the two, and have the time of publication.
const StateNotPending = "not pending"

// EventLife is all information of the outbox about one event.
type EventLife struct {
	ID        int64     `json:"id"`
	EventID   string    `json:"eventId"`
	Topic     string    `json:"topic"`
	Key       string    `json:"key,omitempty"`
	Lane      int16     `json:"lane"`
	Type      string    `json:"type"`
	WrittenAt time.Time `json:"writtenAt"`
	// Deliveries are the first delivery, while it is pending or after it died, and the replays.
	Deliveries []Delivery `json:"deliveries,omitempty"`
	// Published is true if State is StateNotPending. Without a receipt the outbox does not know that;
	// the field stays for scripts that read it.
	Published bool `json:"published"`
	// State is the state of the first delivery: pending, dead, discarded or StateNotPending.
	State string `json:"state"`
	ReceiptsLife
	LaneLife

	at int64 // WrittenAt in the form of relay.Ref
}

// Delivery is one delivery of an event that is pending, dead or discarded.
type Delivery struct {
	State string `json:"state"` // pending, dead or discarded
	// Replay is the number of the operation that replays it. 0: its first delivery.
	Replay int64 `json:"replay,omitempty"`
	// Code and Message are those of the last refusal, if the destination refused the event alone.
	Code     string `json:"code,omitempty"`
	Message  string `json:"message,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	// Since is the time of the first refusal, or of death.
	Since *time.Time `json:"since,omitempty"`
	// Ahead is how many events of its lane are pending before it, up to 10,000.
	Ahead      int    `json:"ahead,omitempty"`
	WorkflowID string `json:"workflowId,omitempty"` // the workflow that made it a dead letter
	// By and Reason name the operator who discarded the event, and the operator's reason.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// LaneLife is the state of a lane: the run or the worker that publishes it, or the reason why no run does.
type LaneLife struct {
	// RunID is the workflow run that has the lane, if one has.
	RunID    string `json:"runId,omitempty"`
	Retrying bool   `json:"retrying,omitempty"` // its batch waits for another attempt
	// Worker is the name of the worker process that has the lane, if no run has it: it publishes the lane
	// together with lanes of other topics.
	Worker string `json:"worker,omitempty"`
	// ReservedUntil is set while an operation waits for the lane: no claim takes it before.
	ReservedUntil *time.Time `json:"reservedUntil,omitempty"`
	// Operations are the workflow ids of the topic's operations under way, while the lane is
	// reserved for one of them.
	Operations  []string `json:"operations,omitempty"`
	PausedBy    string   `json:"pausedBy,omitempty"`
	PauseReason string   `json:"pauseReason,omitempty"`
	Recovery    string   `json:"recovery,omitempty"` // workflow id
	// Failure is the reason why that workflow holds the topic, if an attempt has recorded it.
	Failure *relay.Failure `json:"failure,omitempty"`
}

func (s *Store) lives(ctx context.Context, sql string, args ...any) ([]EventLife, error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	scan := func(row pgx.CollectableRow) (e EventLife, err error) {
		var created pgtype.Timestamptz
		err = row.Scan(&e.ID, &e.EventID, &e.Topic, &e.Key, &e.Lane, &e.Type, &e.WrittenAt, &created)
		e.at = microseconds(created)
		return e, err
	}
	found, err := collect(ctx, s, scan, sql, args...)
	// The dead letters of an unreadable topic are under its escaped name.
	for _, columns := range [...][]string{{"e.key", "e.type"}, {"e.topic"}} {
		if !unconvertible(err) {
			break
		}
		for _, column := range columns {
			sql = strings.Replace(sql, column+",", asEscaped(column)+",", 1)
		}
		found, err = collect(ctx, s, scan, sql, args...)
	}
	if err != nil {
		return nil, fmt.Errorf("look for events: %w", err)
	}
	for i := range found {
		if err := s.fillLife(ctx, &found[i]); err != nil {
			return nil, fmt.Errorf("look for the outcome of event %s: %w", found[i].EventID, err)
		}
	}
	return found, nil
}

// deliveriesSQL reads the deliveries of one event, the first delivery first.
const deliveriesSQL = `
SELECT 'pending', p.replay, coalesce(r.code, ''), coalesce(r.message, ''), coalesce(r.attempts, 0), r.first_at,
       (SELECT count(*)::int FROM (
            SELECT FROM outbox.pending b WHERE b.topic = $1 AND b.lane = $2 AND b.id < $3 LIMIT 10000) ahead),
       '', '', ''
FROM outbox.pending p
LEFT JOIN outbox.refusal r ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay)
                          AND coalesce(r.created_at, p.created_at) = p.created_at
WHERE p.topic = $1 AND p.lane = $2 AND p.id = $3 AND p.created_at = $4
UNION ALL
SELECT 'dead', d.replay, d.code, d.message, d.attempts, d.dead_at, 0, d.workflow_id, '', ''
FROM outbox.dead_letter d WHERE d.topic = $1 AND d.lane = $2 AND d.id = $3 AND d.created_at = $4
UNION ALL
SELECT 'discarded', x.replay, x.code, x.message, 0, x.dead_at, 0, '', o.by, o.reason
FROM outbox.discarded x JOIN outbox.operation o ON o.id = x.operation
WHERE x.topic = $1 AND x.lane = $2 AND x.id = $3 AND x.created_at = $4
ORDER BY 2`

// laneLifeSQL reads the run or the worker that has a lane, and the pause or recovery of its topic.
const laneLifeSQL = `
SELECT CASE WHEN l.leased_until >= now() THEN coalesce(split_part(l.claimed_by, '/', 1), '') ELSE '' END,
       l.retrying AND l.leased_until >= now() IS TRUE,
       CASE WHEN NOT ` + mayClaim + ` THEN coalesce((
           SELECT w.name FROM outbox.share s JOIN outbox.worker w ON w.id = s.worker WHERE s.lane = l.lane), 'unknown') ELSE '' END,
       CASE WHEN l.reserved_until >= now() THEN l.reserved_until END,
       ARRAY(SELECT o.workflow_id FROM outbox.operation o
             WHERE l.reserved_until >= now() AND o.topic = l.topic AND o.finished_at IS NULL ORDER BY o.id LIMIT 5),
       coalesce(t.paused_by, ''), coalesce(t.pause_reason, ''),
       ` + recoveryOf + `, ` + failureFrom + `3` + wholeFailure + `
FROM outbox.lane l LEFT JOIN outbox.topic t USING (topic)
WHERE l.topic = $1 AND l.lane = $2`

func (s *Store) fillLife(ctx context.Context, e *EventLife) error {
	rows, err := s.pool.Query(ctx, deliveriesSQL, e.Topic, e.Lane, e.ID, timestamp(e.at))
	if err != nil {
		return err
	}
	e.Deliveries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Delivery, err error) {
		return d, row.Scan(&d.State, &d.Replay, &d.Code, &d.Message, &d.Attempts, &d.Since, &d.Ahead, &d.WorkflowID, &d.By, &d.Reason)
	})
	if err != nil {
		return err
	}
	e.State = StateNotPending
	for _, d := range e.Deliveries {
		if d.Replay == 0 {
			e.State = d.State
		}
	}
	e.Published = e.State == StateNotPending
	if err := s.fillReceipts(ctx, e); err != nil {
		return err
	}
	rows, err = s.pool.Query(ctx, laneLifeSQL, e.Topic, e.Lane, timing.FailureStale)
	if err != nil {
		return err
	}
	l := &e.LaneLife
	_, err = pgx.ForEachRow(rows, []any{&l.RunID, &l.Retrying, &l.Worker, &l.ReservedUntil, &l.Operations, &l.PausedBy, &l.PauseReason, &l.Recovery, &l.Failure}, func() error { return nil })
	return err
}
