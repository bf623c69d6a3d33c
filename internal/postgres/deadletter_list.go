package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

// DeadLetter is a dead letter as an operator sees it.
type DeadLetter struct {
	Topic      string    `json:"topic"`
	EventID    string    `json:"eventId"` // empty if the event is gone
	ID         int64     `json:"id"`
	Replay     int64     `json:"replay,omitempty"`
	Key        string    `json:"key,omitempty"`
	Type       string    `json:"type,omitempty"`
	Bytes      int       `json:"bytes"`
	Code       string    `json:"code"`
	Message    string    `json:"message"`
	Attempts   int       `json:"attempts"`
	WrittenAt  time.Time `json:"writtenAt"`
	DeadAt     time.Time `json:"deadAt"`
	WorkflowID string    `json:"workflowId"` // the workflow in which it was refused
}

// deadLettersSQL reads the newest dead letters first.
const deadLettersSQL = `
SELECT d.topic, coalesce(ev.event_id::text, ''), d.id, d.replay, d.key, coalesce(ev.type, ''), d.bytes, d.code, d.message,
       d.attempts, ` + shownFrom + `d.created_at` + shownTo + `, d.dead_at, d.workflow_id
FROM outbox.dead_letter d
LEFT JOIN LATERAL (SELECT event_id, type FROM outbox.event e WHERE e.id = d.id AND e.created_at = d.created_at LIMIT 1) ev ON true
WHERE ` + deadFits + `
ORDER BY d.dead_at DESC, d.id LIMIT $8`

// DeadLetters returns the newest selected dead letters of a topic.
func (s *Store) DeadLetters(ctx context.Context, topic string, chosen relay.Selection, limit int) ([]DeadLetter, error) {
	if err := s.Known(ctx, topic); err != nil {
		return nil, err
	}
	sp, err := s.spanNow(ctx, chosen)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.long(ctx)
	defer cancel()
	letters, err := collect(ctx, s, pgx.RowToStructByPos[DeadLetter], deadLettersSQL, append(deadArguments(topic, chosen, sp), limit)...)
	if unconvertible(err) { // the type of an event
		escaped := strings.Replace(deadLettersSQL, "ev.type", asEscaped("ev.type"), 1)
		letters, err = collect(ctx, s, pgx.RowToStructByPos[DeadLetter], escaped, append(deadArguments(topic, chosen, sp), limit)...)
	}
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return letters, nil
}

// DeadCount is how many dead letters a topic has of one code.
type DeadCount struct {
	Topic  string    `json:"topic"`
	Code   string    `json:"code"`
	Events int64     `json:"events"`
	Keys   int64     `json:"keys"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

const deadCountsSQL = `
SELECT topic, code, count(*), count(DISTINCT key) FILTER (WHERE key <> ''), min(dead_at), max(dead_at)
FROM outbox.dead_letter GROUP BY topic, code ORDER BY topic, count(*) DESC, code`

// DeadCounts counts all dead letters by topic and code.
func (s *Store) DeadCounts(ctx context.Context) ([]DeadCount, error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	counts, err := collect(ctx, s, pgx.RowToStructByPos[DeadCount], deadCountsSQL)
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	for i := range counts {
		counts[i].Topic = readableTopic(counts[i].Topic)
	}
	return counts, nil
}

// EventContent is the content of an event.
type EventContent struct {
	ContentType string            `json:"contentType"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Payload     string            `json:"payload,omitempty"`
}

const contentSQL = `
SELECT content_type, attributes, CASE WHEN $3 THEN payload ELSE '' END
FROM outbox.event WHERE event_id = $1 AND id = $2`

// Content reads the content of an event. It reads the payload only if payload is true.
func (s *Store) Content(ctx context.Context, eventID outbox.ID, id int64, payload bool) (c EventContent, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	var raw []byte
	err = s.readRow(ctx, []any{&c.ContentType, &raw, &c.Payload}, contentSQL, eventID, id, payload)
	if err != nil {
		return c, fmt.Errorf("read event %s: %w", eventID, err)
	}
	c.Attributes, _ = attributes(raw) // none, if a message cannot have them
	return c, nil
}
