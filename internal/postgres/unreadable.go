package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/relay"
)

// buryTopicSQL makes dead letters of a topic's pending events in free lanes, and in those of shares that the
// caller holds. It waits for no lock,
// because a claim of other topics waits for it. An event stays pending if another event's dead letter
// has its id: a sequence that was set back gives ids again.
const buryTopicSQL = `
WITH free AS (
    SELECT topic, lane FROM outbox.lane l
    WHERE topic = $1 AND (leased_until IS NULL OR leased_until < now())
      AND (` + mayClaim + ` OR l.lane IN (SELECT s.lane FROM outbox.share s WHERE s.worker::text = $3 AND s.leased_until >= now()))
    ORDER BY topic, lane FOR NO KEY UPDATE SKIP LOCKED),
gone AS (
    DELETE FROM outbox.pending
    WHERE ctid = ANY (ARRAY(
        SELECT p.ctid FROM free CROSS JOIN LATERAL (
            SELECT p.ctid FROM outbox.pending p
            WHERE p.topic = $1 AND p.lane = free.lane
              AND NOT EXISTS (SELECT FROM outbox.dead_letter d
                              WHERE d.topic = $1 AND d.lane = p.lane AND d.id = p.id AND d.replay = p.replay) LIMIT 100) p))
    RETURNING lane, id, created_at, bytes, replay, operation)
INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, replay, key, code, message, attempts, workflow_id, operation)
SELECT $1, lane, id, created_at, bytes, replay,
       coalesce((SELECT e.key FROM outbox.event e WHERE e.id = gone.id AND e.created_at = gone.created_at LIMIT 1), ''),
       '` + relay.CodeInvalidCharacter + `', $2, 1, $3, coalesce(operation, 0)
FROM gone`

// buryUnreadable removes the lanes of topics that are not valid UTF-8 from the waiting ones, and makes
// dead letters of their events. Only a database of encoding SQL_ASCII returns such topics. No workflow
// can handle one: in JSON it would be the name of another topic.
func (s *Store) buryUnreadable(ctx context.Context, by string, waiting []lane) []lane {
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
			// The next claim tries again, and Config.Fault gets an error. Other topics do not
			// wait.
			_, _ = s.pool.Exec(ctx, buryTopicSQL, l.topic, message, by)
		}
	}
	return readable
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

// readableTopic returns a topic as it is shown. It quotes a topic that is not valid UTF-8, because
// neither JSON nor a metric can have it.
func readableTopic(topic string) string {
	if utf8.ValidString(topic) {
		return topic
	}
	return strconv.Quote(topic)
}

// SQLSTATEs of a text that the server cannot convert to UTF-8. Encodings other than UTF8 have bytes that
// are no characters, such as 81 in WIN1252. The trigger of outbox.event refuses them, but events may be
// older than this rule.
const (
	untranslatableCharacter  = "22P05"
	characterNotInRepertoire = "22021"
)

func unconvertible(err error) bool {
	return hasState(err, untranslatableCharacter, characterNotInRepertoire)
}

// convertSQL fails if one column of an event cannot be converted.
const convertSQL = `
SELECT coalesce(octet_length(convert_to(%s::text, 'UTF8')), 0)
FROM outbox.event WHERE id = $1 AND created_at = $2`

// convert returns the server's error if it cannot convert a column of an event.
func (s *Store) convert(ctx context.Context, column string, r relay.Ref) error {
	_, err := s.pool.Exec(ctx, fmt.Sprintf(convertSQL, column), r.ID, timestamp(r.At))
	return err
}

// inHalves reads a range of events. If the server cannot convert a text to UTF-8, the statement that reads it
// fails. Then inHalves reads the halves of the range separately, down to the event with that text, and gives it
// to unreadable with the error.
func inHalves(from, to int, read func(from, to int) error, unreadable func(i int, err error) error) error {
	err := read(from, to)
	switch {
	case !unconvertible(err):
		return err
	case to-from == 1:
		return unreadable(from, err)
	}
	half := from + (to-from)/2
	if err := inHalves(from, half, read, unreadable); err != nil {
		return err
	}
	return inHalves(half, to, read, unreadable)
}

const keySQL = `SELECT key FROM outbox.event WHERE id = $1 AND created_at = $2 LIMIT 1`

// unreadable records why an event cannot be read. It also reads the event's key if possible, because
// the key may block later events.
func (s *Store) unreadable(ctx context.Context, e *relay.Event, cause error) error {
	known := *e
	*e = relay.Event{Ref: known.Ref, CreatedAt: known.CreatedAt, Bytes: known.Bytes}
	for _, column := range [...]string{"key", "type", "payload", "content_type", "attributes"} {
		err := s.convert(ctx, column, e.Ref)
		var pgErr *pgconn.PgError
		switch {
		case unconvertible(err) && errors.As(err, &pgErr):
			e.Unreadable = column + " cannot be read as UTF-8: " + pgErr.Message
			return nil
		case err != nil:
			return err
		case column == "key":
			if err := s.pool.QueryRow(ctx, keySQL, e.ID, timestamp(e.At)).Scan(&e.Key); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
		}
	}
	return cause
}

// unreadableKeys returns the ids of future dead letters whose keys cannot be read. These get no key: all
// events of such a key become dead letters anyway.
func (s *Store) unreadableKeys(ctx context.Context, dead []relay.Outcome) (ids []int64, err error) {
	if !s.converts() {
		return nil, nil
	}
	for _, o := range dead {
		if o.Err.Code != relay.CodeInvalidCharacter {
			continue
		}
		switch err := s.convert(ctx, "key", o.Ref); {
		case unconvertible(err):
			ids = append(ids, o.ID)
		case err != nil:
			return nil, err
		}
	}
	return ids, nil
}

// converts reports whether the server converts texts from another encoding to UTF-8.
func (s *Store) converts() bool {
	seen := s.session.Load()
	return seen != nil && seen.encoding != "UTF8" && seen.encoding != sqlASCII
}

// asEscaped turns an expression into one that every session can read: bytes above 7F
// become \nnn, in octal.
func asEscaped(expression string) string {
	return "encode(convert_to(" + expression + ", getdatabaseencoding()), 'escape')"
}

// strangeTopicsSQL lists topics with characters beyond ASCII, as bytes of the database's encoding.
const strangeTopicsSQL = `
SELECT DISTINCT convert_to(topic, getdatabaseencoding()) FROM outbox.lane
WHERE octet_length(convert_to(topic, getdatabaseencoding())) <> octet_length(encode(convert_to(topic, getdatabaseencoding()), 'escape'))`

const readTopicSQL = `SELECT convert_from($1::bytea, getdatabaseencoding())`

// unreadableTopics lists topics that have lanes and that the server cannot convert to UTF-8.
func (s *Store) unreadableTopics(ctx context.Context) (topics [][]byte, err error) {
	rows, err := s.pool.Query(ctx, strangeTopicsSQL)
	if err != nil {
		return nil, err
	}
	strange, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	for _, topic := range strange {
		_, err := s.pool.Exec(ctx, readTopicSQL, topic)
		if unconvertible(err) {
			topics = append(topics, topic)
		} else if err != nil {
			return nil, err
		}
	}
	return topics, nil
}

// setAsideSQL removes a topic that cannot be read as UTF-8. Its pending events become dead letters under
// the topic's escaped name, and lanes of that name replace its lanes. If more events are pending than
// one step takes, the next look for new topics makes the lanes again. No claim can have had the lanes.
// An event stays pending if a dead letter has its id, as in buryTopicSQL.
const setAsideSQL = `
WITH topic AS (SELECT convert_from($1::bytea, getdatabaseencoding()) COLLATE "C" AS name),
lanes AS (DELETE FROM outbox.lane l USING topic WHERE l.topic = topic.name),
gone AS (
    DELETE FROM outbox.pending
    WHERE ctid = ANY (ARRAY(
        SELECT p.ctid FROM outbox.pending p
        WHERE p.topic = (SELECT name FROM topic)
          AND NOT EXISTS (SELECT FROM outbox.dead_letter d
                          WHERE d.topic = encode($1::bytea, 'escape') AND d.lane = p.lane AND d.id = p.id AND d.replay = p.replay) LIMIT 10000))
    RETURNING lane, id, created_at, bytes, replay, operation),
known AS (
    INSERT INTO outbox.lane (topic, lane)
    SELECT encode($1::bytea, 'escape'), n FROM generate_series(0, $4 - 1) n
    ORDER BY n
    ON CONFLICT DO NOTHING)
INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, replay, code, message, attempts, workflow_id, operation)
SELECT encode($1::bytea, 'escape'), lane, id, created_at, bytes, replay, '` + relay.CodeInvalidCharacter + `', $2, 1, $3, coalesce(operation, 0)
FROM gone`

// setAside removes topics that the server cannot convert to UTF-8, because they block all other topics.
func (s *Store) setAside(ctx context.Context, by string) error {
	topics, err := s.unreadableTopics(ctx)
	if err != nil {
		return fmt.Errorf("find topics that cannot be read: %w", err)
	}
	for _, topic := range topics {
		if _, err := s.pool.Exec(ctx, setAsideSQL, topic, unreadableTopic(topic), by, relay.Lanes); err != nil {
			return fmt.Errorf("move topic %q to dead letters: %w", topic, err)
		}
	}
	return nil
}

func unreadableTopic(topic []byte) string {
	return fmt.Sprintf("topic, in bytes %x, cannot be read as UTF-8", topic)
}

// topicsWarning names the topics that the relay sets aside.
func (s *Store) topicsWarning(ctx context.Context) error {
	if !s.converts() {
		return nil
	}
	topics, err := s.unreadableTopics(ctx)
	if err != nil {
		return fmt.Errorf("look for topics that cannot be read: %w", err)
	}
	if len(topics) == 0 {
		return nil
	}
	names := make([]string, len(topics))
	for i, topic := range topics {
		names[i] = fmt.Sprintf("%q", topic)
	}
	return fmt.Errorf("the names of some topics cannot be read as UTF-8 (%s), so a worker makes dead letters of their events: "+
		"to see them, run \"SELECT DISTINCT convert_to(topic, getdatabaseencoding()) FROM outbox.lane\"", strings.Join(names, ", "))
}
