package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// writeReceiptsSQL does not wait for the disk: a server that crashes may lose the receipts of the last
// moments, and that is acceptable. Topics and destinations are few, so the statement sends each one
// once. published_at is the database's time minus the age of the acknowledgement, so that a delayed
// receipt has the right time.
const writeReceiptsSQL = `
WITH lazily AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS is),
place AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS p(topic, destination, number))
INSERT INTO outbox.receipt (id, created_at, replay, topic, message_id, destination, published_at)
SELECT w.id, w.created_at, w.replay, place.topic, w.message_id, place.destination, clock_timestamp() - w.age * interval '1 microsecond'
FROM lazily, unnest($3::int[], $4::bigint[], $5::timestamptz[], $6::bigint[], $7::text[], $8::bigint[])
             AS w(place, id, created_at, replay, message_id, age)
JOIN place ON place.number = w.place
WHERE lazily.is = 'off'`

// WriteReceipts writes receipts of any topics. If the day of one receipt has no partition, or if the
// database refuses its data, it writes none of them and returns relay.ErrReceiptsRefused. After any
// other error you may write them again: a receipt that was written twice is shown once.
func (s *Store) WriteReceipts(ctx context.Context, receipts []relay.Receipt) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	type place struct{ topic, destination string }
	numbers := make(map[place]int32)
	var topics, destinations []string
	n := len(receipts)
	places, ids, replays := make([]int32, n), make([]int64, n), make([]int64, n)
	created, messages, ages := make([]pgtype.Timestamptz, n), make([]string, n), make([]int64, n)
	for i, r := range receipts {
		at := place{r.Topic, r.Destination}
		if numbers[at] == 0 {
			topics, destinations = append(topics, r.Topic), append(destinations, r.Destination)
			numbers[at] = int32(len(topics)) //nolint:gosec // as many as receipts at most
		}
		places[i], ids[i], replays[i], created[i] = numbers[at], r.ID, r.Replay, timestamp(r.Ref.At)
		messages[i], ages[i] = r.MessageID, time.Since(r.At).Microseconds()
	}
	_, err := s.pool.Exec(ctx, writeReceiptsSQL, topics, destinations, places, ids, created, replays, messages, ages)
	if err == nil {
		return nil
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code[:2] {
		case "22", "23", "42": // data, constraints (and no partition), rights and names
			return fmt.Errorf("write receipts: %w: %w", relay.ErrReceiptsRefused, err)
		}
	}
	return fmt.Errorf("write receipts: %w", err)
}

// keepReceiptsSQL records which topics keep receipts. It writes no row without a change.
const keepReceiptsSQL = `
WITH ended AS (
    UPDATE outbox.receipt_topic SET ended_at = now()
    WHERE ended_at IS NULL AND topic <> ALL ($1::text[]))
INSERT INTO outbox.receipt_topic AS t (topic, keep)
SELECT w.topic, w.keep * interval '1 microsecond' FROM unnest($1::text[], $2::bigint[]) AS w(topic, keep)
ON CONFLICT (topic) DO UPDATE
SET keep = excluded.keep, since = CASE WHEN t.ended_at IS NULL THEN t.since ELSE now() END, ended_at = NULL
WHERE t.ended_at IS NOT NULL OR t.keep <> excluded.keep`

// missingReceiptDaysSQL lists the days from today on that need a partition of receipts. It lists none
// while no topic keeps receipts.
const missingReceiptDaysSQL = `
SELECT d.day::text
FROM (SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, $1::int) n) d
WHERE EXISTS (SELECT FROM outbox.receipt_topic WHERE ended_at IS NULL)
  AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                  WHERE i.inhparent = 'outbox.receipt'::regclass AND c.relname = 'receipt_' || to_char(d.day, 'YYYYMMDD'))
ORDER BY d.day`

const makeReceiptPartitionSQL = `SELECT outbox.make_receipt_partition($1::text::date)`

// KeepReceipts records which topics keep receipts, and for how long; it turns receipts off for all
// other topics. If a topic keeps receipts, it makes the partitions of today and of the ahead days
// after it. left names the days without a partition, the obstacle and the remedy; their receipts will
// be lost. A second call changes nothing.
func (s *Store) KeepReceipts(ctx context.Context, topics map[string]time.Duration, ahead int) (left []string, err error) {
	// Sorted, so that two workers that start at once lock the rows in one order. An empty slice, not
	// a nil one, because nil would become NULL.
	names := slices.AppendSeq(make([]string, 0, len(topics)), maps.Keys(topics))
	slices.Sort(names)
	keep := make([]int64, len(names))
	for i, name := range names {
		keep[i] = topics[name].Microseconds()
	}
	noting, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(noting, keepReceiptsSQL, names, keep); err != nil {
		return nil, fmt.Errorf("record which topics keep receipts: %w", err)
	}
	days, err := list(ctx, s, missingReceiptDaysSQL, ahead)
	if err != nil {
		return nil, fmt.Errorf("list missing partitions of receipts: %w", err)
	}
	for _, day := range days {
		var made *bool
		patience, cancel := context.WithTimeout(ctx, s.cfg.MakePatience)
		err := s.unlocked(ctx, patience, 0, &turns{}, nil, makeReceiptPartitionSQL, []any{day}, &made)
		cancel()
		name := "outbox.receipt_" + strings.ReplaceAll(day, "-", "")
		switch {
		case errors.Is(err, errInTheWay) && ctx.Err() == nil:
			left = append(left, fmt.Sprintf("%s has no partition for receipts yet: %v", day, err))
		case err != nil:
			return left, fmt.Errorf("make the partition of receipts of %s: %w", day, err)
		case made == nil:
			left = append(left, fmt.Sprintf("%s has no partition for receipts, because a table %s exists and is not a partition: the relay cannot keep receipts of that day: rename or drop the table", day, name))
		}
	}
	return left, nil
}

// expiredReceiptDaysSQL lists the partitions of receipts that no topic keeps any more. A day is kept
// for the longest time of all topics, including topics whose receipts were turned off.
const expiredReceiptDaysSQL = `
SELECT day::text
FROM (SELECT to_date(substr(c.relname, 9), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'outbox.receipt'::regclass AND c.relname ~ '^receipt_[0-9]{8}$') partition
WHERE day < (now() AT TIME ZONE 'UTC')::date
  AND (day + 1)::timestamp AT TIME ZONE 'UTC' + coalesce((SELECT max(keep) FROM outbox.receipt_topic), '0') <= now()
ORDER BY day`

const dropReceiptPartitionSQL = `SELECT outbox.drop_receipt_partition($1::text::date)`

// forgetReceiptTopicsSQL deletes the records of topics without any receipt left.
const forgetReceiptTopicsSQL = `
DELETE FROM outbox.receipt_topic WHERE ended_at + keep < now() - interval '1 day'`

// DropReceipts drops the partitions of receipts that no topic keeps any more. left names the partitions
// that stay for now, with the obstacle.
func (s *Store) DropReceipts(ctx context.Context) (left []string, err error) {
	listing, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	rows, err := s.pool.Query(listing, expiredReceiptDaysSQL)
	if err != nil {
		return nil, fmt.Errorf("list expired partitions of receipts: %w", err)
	}
	days, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list expired partitions of receipts: %w", err)
	}
	var turn turns
	for _, day := range days {
		var dropped bool
		patience, cancel := context.WithTimeout(ctx, s.cfg.MakePatience)
		err := s.unlocked(ctx, patience, s.cfg.MakePatience/2, &turn, nil, dropReceiptPartitionSQL, []any{day}, &dropped)
		cancel()
		switch {
		case errors.Is(err, errInTheWay) && ctx.Err() == nil:
			left = append(left, fmt.Sprintf("the receipts of %s are not dropped: %v", day, err))
		case err != nil:
			return left, fmt.Errorf("drop the receipts of %s: %w", day, err)
		}
	}
	if _, err := s.pool.Exec(listing, forgetReceiptTopicsSQL); err != nil {
		return left, fmt.Errorf("forget topics without receipts: %w", err)
	}
	return left, nil
}

// ReceiptsLife is the information that receipts have about one event.
type ReceiptsLife struct {
	// Receipts are the messages of the event, the first one first. An event that was sent twice has
	// two for its first delivery.
	Receipts []Receipt `json:"receipts,omitempty"`
	// ReceiptsFor is how long the event's topic keeps receipts, such as "168h0m0s", and
	// ReceiptsSince is when it began to. Both are absent if receipts are off for the topic.
	ReceiptsFor   string     `json:"receiptsFor,omitempty"`
	ReceiptsSince *time.Time `json:"receiptsSince,omitempty"`
	// ReceiptsUnknown is true if this role may not read receipts, or the outbox is too old
	// to have any.
	ReceiptsUnknown bool `json:"receiptsUnknown,omitempty"`

	// Gone is true if a receipt of the event's time may have been dropped.
	Gone bool `json:"-"`
}

// Receipt is one message of an event.
type Receipt struct {
	PublishedAt time.Time `json:"publishedAt"` // when its destination acknowledged it
	// MessageID is the id that the destination gave. With raw delivery, a subscriber of an SNS topic
	// gets another id: the one of its queue.
	MessageID   string `json:"messageId,omitempty"`
	Destination string `json:"destination"` // ARN or URL
	// Replay is the number of the operation that replayed the event. 0: its first delivery.
	Replay int64 `json:"replay,omitempty"`
}

const mayReadReceiptsSQL = `
SELECT coalesce(has_table_privilege(to_regclass('outbox.receipt'), 'SELECT')
            AND has_table_privilege(to_regclass('outbox.receipt_topic'), 'SELECT'), false)`

// receiptsOfSQL finds the receipts of one event. It shows a receipt once that was written twice.
const receiptsOfSQL = `
SELECT min(published_at), message_id, destination, replay FROM outbox.receipt
WHERE id = $1 AND created_at = $2
GROUP BY message_id, destination, replay
ORDER BY 1, 2`

const receiptTopicSQL = `
SELECT extract(epoch FROM keep)::float8, since, since > $2 OR now() - keep > $2
FROM outbox.receipt_topic WHERE topic = $1 AND ended_at IS NULL`

// fillReceipts reads the receipts of an event.
func (s *Store) fillReceipts(ctx context.Context, e *EventLife) error {
	r := &e.ReceiptsLife
	var may bool
	if err := s.pool.QueryRow(ctx, mayReadReceiptsSQL).Scan(&may); err != nil {
		return err
	}
	if r.ReceiptsUnknown = !may; !may {
		return nil
	}
	rows, err := s.pool.Query(ctx, receiptsOfSQL, e.ID, timestamp(e.at))
	if err != nil {
		return err
	}
	r.Receipts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Receipt, err error) {
		return m, row.Scan(&m.PublishedAt, &m.MessageID, &m.Destination, &m.Replay)
	})
	if err != nil {
		return err
	}
	rows, err = s.pool.Query(ctx, receiptTopicSQL, e.Topic, timestamp(e.at))
	if err != nil {
		return err
	}
	var seconds float64
	var since time.Time
	_, err = pgx.ForEachRow(rows, []any{&seconds, &since, &r.Gone}, func() error {
		r.ReceiptsFor, r.ReceiptsSince = time.Duration(seconds*float64(time.Second)).String(), &since
		return nil
	})
	return err
}
