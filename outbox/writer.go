package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
)

// Writer writes events with options. The zero Writer is ready to use; [Write] uses
// it. A Writer holds no state and may be shared.
type Writer struct {
	// SerializeKeys makes transactions that write events of the same topic and
	// key follow one another, from the call of Write to the end of the
	// transaction. Ids, and so the published order, are then in commit order for
	// each key. Default: false, for services whose transactions lock the
	// aggregate's row anyway before they write its event.
	//
	// It takes one transaction-level advisory lock for each key, before any id is
	// assigned and in the same round trip. One call takes its locks in a fixed
	// order, so that calls cannot deadlock with each other. Transactions with
	// several calls can deadlock, because the caller chooses their order: pass
	// all events of a transaction to one call. The wait ends with ctx or
	// PostgreSQL's lock_timeout. Each lock takes a place in PostgreSQL's shared
	// lock table (see max_locks_per_transaction): write thousands of keys in
	// several transactions.
	//
	// A producer in plain SQL takes the same lock first:
	//
	//	SELECT pg_advisory_xact_lock(hashtextextended('outbox/' || topic || '/' || key, 0))
	SerializeKeys bool
}

// Write writes events with the zero [Writer].
func Write(ctx context.Context, tx pgx.Tx, events ...Event) error {
	return Writer{}.Write(ctx, tx, events...)
}

// Names are qualified, because a service's search_path may have other functions and
// operators before PostgreSQL's own.
//
// Locks are taken while the rows of the subquery are read, so ORDER BY is the
// order of the locks. It sorts the lock numbers, not the keys: two keys can
// share a number, and only an order of the numbers themselves excludes
// deadlocks. If two keys share one, they merely wait for each other.
const lockKeys = `
SELECT pg_catalog.pg_advisory_xact_lock(keys.lock)
FROM (
	SELECT DISTINCT pg_catalog.hashtextextended(pg_catalog.concat('outbox/', e.topic, '/', e.key), 0) AS lock
	FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS e (topic, key)
	WHERE e.key OPERATOR(pg_catalog.<>) ''
	ORDER BY lock
) AS keys`

// Arrays, because their number does not depend on the number of events: one
// prepared statement serves every call. They are all of type text, which every
// query execution mode of pgx encodes without asking the server for types.
// There is no RETURNING, because producers have no right to read.
const insertEvents = `
INSERT INTO outbox.event (event_id, topic, key, type, payload, content_type, attributes)
SELECT e.event_id::pg_catalog.uuid, e.topic, e.key, e.type, e.payload, e.content_type, e.attributes::pg_catalog.jsonb
FROM ROWS FROM (
	pg_catalog.unnest($1::pg_catalog.text[]),
	pg_catalog.unnest($2::pg_catalog.text[]),
	pg_catalog.unnest($3::pg_catalog.text[]),
	pg_catalog.unnest($4::pg_catalog.text[]),
	pg_catalog.unnest($5::pg_catalog.text[]),
	pg_catalog.unnest($6::pg_catalog.text[]),
	pg_catalog.unnest($7::pg_catalog.text[]))
	WITH ORDINALITY AS e (event_id, topic, key, type, payload, content_type, attributes, position)
ORDER BY e.position`

// Write writes events in tx, in one round trip, and gives them ascending ids in
// the order of the arguments. They are published after tx has committed, and
// never if it rolls back. No events: nothing happens.
//
// If any event is invalid, none is written, nothing is sent to the database, tx
// stays usable, and errors.As finds [ValidationErrors]. After any other error
// the transaction is aborted, as after every failed statement in PostgreSQL.
//
// All events travel in one message, which PostgreSQL limits to 1 GiB: split
// bulk loads into calls of some thousand events.
func (w Writer) Write(ctx context.Context, tx pgx.Tx, events ...Event) error {
	if len(events) == 0 {
		return nil
	}
	c, err := newColumns(ctx, events)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}

	// Two statements rather than one with a CTE: the locks must be held before
	// the INSERT draws its first id, and statements run strictly in sequence.
	batch := &pgx.Batch{}
	if w.SerializeKeys && c.keyed {
		batch.Queue(lockKeys, c.topics, c.keys)
	}
	batch.Queue(insertEvents, c.ids, c.topics, c.keys, c.types, c.payloads, c.contentTypes, c.attributes)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return explain(err)
	}
	return nil
}

// columns holds the events as one list for each column, for unnest.
type columns struct {
	ids, topics, keys, types, payloads, contentTypes, attributes []string

	keyed bool // some event has a key
}

// newColumns validates events and fills in the fields that the caller left empty. It
// changes copies, not the caller's events. Its error is a ValidationErrors.
func newColumns(ctx context.Context, events []Event) (*columns, error) {
	var c columns
	var problems ValidationErrors
	parent := traceparent(ctx)
	chosen := make(map[ID]int)
	for i, e := range events {
		report := problems.collect(i)
		e.check(report)

		// A repeated id would make two rows, and a FIFO destination silently drops one
		// of them. Across calls the caller may have reasons; within a call it is a mistake.
		if first, repeated := chosen[e.ID]; repeated {
			report("ID", "is the same as event %d's", first)
		} else if !e.ID.IsZero() {
			chosen[e.ID] = i
		} else {
			e.ID = NewID()
		}

		c.ids = append(c.ids, e.ID.String())
		c.topics = append(c.topics, e.Topic)
		c.keys = append(c.keys, e.Key)
		c.types = append(c.types, e.Type)
		c.payloads = append(c.payloads, e.Payload)
		c.contentTypes = append(c.contentTypes, e.contentType())
		c.attributes = append(c.attributes, encodeAttributes(e.Attributes, parent))
		c.keyed = c.keyed || e.Key != ""
	}
	return &c, problems.orNil()
}

// encodeAttributes returns the JSON object to store. The event's own traceparent
// replaces the context's.
func encodeAttributes(own map[string]string, parent string) string {
	if _, given := own[AttributeTraceparent]; !given && parent != "" {
		with := make(map[string]string, len(own)+1)
		maps.Copy(with, own)
		with[AttributeTraceparent] = parent
		own = with
	}
	if len(own) == 0 {
		return "{}"
	}
	b, _ := json.Marshal(own) // never fails for a map of strings
	return string(b)
}
