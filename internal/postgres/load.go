package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// loadSQL reads the next events of some lanes. Each lane is one short index scan
// from its position, and each event one lookup by primary key: a plain join
// scanned every partition. The sum before a row cuts the page at so many bytes,
// but never before the first row. A pending row whose event is gone is reported,
// not skipped: it would be claimed for ever.
const loadSQL = `
SELECT page.lane, page.id, page.replay, page.created_at, page.found,
       e.event_id::text, e.key, e.type, e.payload, e.content_type,
       CASE WHEN e.attributes <> '{}' THEN e.attributes END
FROM (SELECT p.*, count(*) OVER () AS found,
             sum(p.bytes) OVER (ORDER BY p.lane, p.id, p.replay) - p.bytes AS bytes_before
      FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS at(lane, id, replay)
      CROSS JOIN LATERAL (
          SELECT p.lane, p.id, p.replay, p.created_at, p.bytes::bigint FROM outbox.pending p
          WHERE p.topic = $1 AND p.lane = at.lane AND (p.id, p.replay) > (at.id, at.replay)
          ORDER BY p.id, p.replay LIMIT $5) p) page
LEFT JOIN LATERAL (
    SELECT event_id, key, type, payload, content_type, attributes
    FROM outbox.event e WHERE e.id = page.id AND e.created_at = page.created_at LIMIT 1) e ON true
WHERE page.bytes_before < $6
ORDER BY page.lane, page.id, page.replay`

// Load reads the next page of a topic behind the given positions: at most events
// events, shared evenly by the lanes, and relay.PageBytes, at least one event.
func (s *Store) Load(ctx context.Context, topic string, from map[int16]relay.Position, events int) (relay.Page, error) {
	lanes := slices.Sorted(maps.Keys(from))
	ids, replays := make([]int64, len(lanes)), make([]int64, len(lanes))
	for i, n := range lanes {
		ids[i], replays[i] = from[n].ID, from[n].Replay
	}
	perLane := max(1, events/max(1, len(lanes)))
	rows, err := s.pool.Query(ctx, loadSQL, topic, lanes, ids, replays, perLane, relay.PageBytes)
	if err != nil {
		return relay.Page{}, fmt.Errorf("load events: %w", err)
	}
	var page relay.Page
	var found int
	perLaneGot := make(map[int16]int, len(lanes))
	for rows.Next() {
		e, err := scanEvent(rows, &found)
		if err != nil {
			rows.Close()
			return relay.Page{}, fmt.Errorf("load events: %w", err)
		}
		page.Events = append(page.Events, e)
		perLaneGot[e.Lane]++
	}
	if err := rows.Err(); err != nil {
		return relay.Page{}, fmt.Errorf("load events: %w", err)
	}
	cut := found > len(page.Events) // by bytes, so any lane may hold more
	for _, n := range lanes {
		if cut || perLaneGot[n] == perLane {
			page.More = append(page.More, n)
		}
	}
	return page, nil
}

func scanEvent(rows pgx.Rows, found *int) (relay.Event, error) {
	var e relay.Event
	var created time.Time
	// Null where the event itself is gone.
	var eventID, key, kind, payload, contentType *string
	err := rows.Scan(&e.Lane, &e.ID, &e.Replay, &created, found,
		&eventID, &key, &kind, &payload, &contentType, &e.Attributes)
	if err != nil {
		return e, err
	}
	e.CreatedAt = created
	if eventID != nil {
		e.EventID, e.Key, e.Type, e.Payload, e.ContentType = *eventID, *key, *kind, *payload, *contentType
	}
	return e, nil
}
