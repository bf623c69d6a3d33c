package postgres

import (
	"context"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/temporal-outbox/relay/internal/relay"
)

// buryTopicSQL makes dead letters of what is pending of a topic, in lanes that nobody has.
const buryTopicSQL = `
WITH free AS (
    SELECT topic, lane FROM outbox.lane
    WHERE topic = $1 AND (leased_until IS NULL OR leased_until < now())
    ORDER BY topic, lane FOR NO KEY UPDATE),
gone AS (
    DELETE FROM outbox.pending
    WHERE ctid = ANY (ARRAY(
        SELECT p.ctid FROM free CROSS JOIN LATERAL (
            SELECT p.ctid FROM outbox.pending p WHERE p.topic = $1 AND p.lane = free.lane LIMIT 100) p))
    RETURNING lane, id, created_at, bytes, replay)
INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, replay, key, code, message, attempts, workflow_id)
SELECT $1, lane, id, created_at, bytes, replay,
       coalesce((SELECT e.key FROM outbox.event e WHERE e.id = gone.id AND e.created_at = gone.created_at LIMIT 1), ''),
       '` + relay.CodeInvalidCharacter + `', $2, 1, $3
FROM gone
ON CONFLICT DO NOTHING`

// buryUnreadable takes the lanes of topics that are not valid UTF-8 out of those that wait,
// and makes dead letters of their events. Only a database of encoding SQL_ASCII has such
// topics. No workflow can have one: in JSON it would be the name of another topic.
func (s *Store) buryUnreadable(ctx context.Context, by string, waiting []lane) ([]lane, error) {
	readable := make([]lane, 0, len(waiting))
	buried := make(map[string]bool)
	for _, l := range waiting {
		at, ok := badUTF8(l.topic)
		switch {
		case !ok:
			readable = append(readable, l)
		case !buried[l.topic]:
			buried[l.topic] = true
			message := fmt.Sprintf("topic is not valid UTF-8 at byte %d", at)
			if _, err := s.pool.Exec(ctx, buryTopicSQL, l.topic, message, by); err != nil {
				return nil, fmt.Errorf("move topic %s to dead letters: %w", readableTopic(l.topic), err)
			}
		}
	}
	return readable, nil
}

// badUTF8 finds the first byte of s that is not UTF-8.
func badUTF8(s string) (at int, found bool) {
	if utf8.ValidString(s) {
		return 0, false
	}
	for at < len(s) {
		r, width := utf8.DecodeRuneInString(s[at:])
		if r == utf8.RuneError && width == 1 {
			break
		}
		at += width
	}
	return at, true
}

// readableTopic is how a topic is shown: one that is not valid UTF-8 is quoted, because
// neither JSON nor a metric can hold it.
func readableTopic(topic string) string {
	if utf8.ValidString(topic) {
		return topic
	}
	return strconv.Quote(topic)
}
