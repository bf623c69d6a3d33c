package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// The home-made poller is what many teams write instead of using a relay: a table with a status
// column, a claim with SKIP LOCKED, and a notification. This one is tuned: it claims a thousand
// rows at a time, or fewer if their payloads are large, and has 16 requests under way. It holds a
// transaction while it sends, and it keeps order only as a single process.
const (
	pollerClaims = 1000
	pollerBytes  = 64 << 20    // of a claim
	pollerIdle   = time.Second // between looks without a notification
)

const pollerTableSQL = `
CREATE TABLE poller (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    uuid        NOT NULL DEFAULT gen_random_uuid(),
    key         text        NOT NULL,
    type        text        NOT NULL,
    payload     text        NOT NULL,
    traceparent text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    status      smallint    NOT NULL DEFAULT 0
);
CREATE INDEX poller_pending ON poller (id) WHERE status = 0`

const pollerInsertSQL = `
INSERT INTO poller (key, type, payload, traceparent)
SELECT 'key-' || n % $3::int, 'BenchEvent', '{"marker":"bench-' || lpad(n::text, 7, '0') || '-","pad":"' || $4::text || '"}', $5::text
FROM generate_series($1::bigint, $2::bigint - 1) n`

const pollerClaimSQL = `
SELECT id, event_id::text, type, payload, traceparent FROM poller
WHERE status = 0 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED`

const pollerDoneSQL = `UPDATE poller SET status = 1 WHERE id = ANY ($1)`

// pollerEvent is a claimed row.
type pollerEvent struct {
	ID                                  int64
	EventID, Type, Payload, Traceparent string
}

// pollerDrain inserts events into the poller's table, and publishes them to the first queue.
// The poller's processor time is that of this process.
func (fx *fixture) pollerDrain(ctx context.Context, client bareClient, events int) (DrainResult, error) {
	fx.say("  inserting %d events for the home-made poller", events)
	if _, err := fx.pool.Exec(ctx, pollerTableSQL); err != nil {
		return DrainResult{}, fmt.Errorf("create the poller's table: %w", err)
	}
	chunk := max(1, min(5000, insertBytes/fx.payload))
	for from := 0; from < events; from += chunk {
		_, err := fx.pool.Exec(ctx, pollerInsertSQL, from, min(from+chunk, events), fx.keys, filler(fx.payload), traceparent)
		if err != nil {
			return DrainResult{}, fmt.Errorf("insert for the poller: %w", err)
		}
	}
	if _, err := fx.pool.Exec(ctx, "VACUUM (ANALYZE) poller"); err != nil {
		return DrainResult{}, fmt.Errorf("vacuum the poller's table: %w", err)
	}
	if err := fx.settleDown(ctx); err != nil {
		return DrainResult{}, err
	}
	conn, err := pgx.Connect(ctx, fx.env.Get("DATABASE_URL"))
	if err != nil {
		return DrainResult{}, fmt.Errorf("connect as the poller: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN poller"); err != nil {
		return DrainResult{}, fmt.Errorf("listen as the poller: %w", err)
	}
	cpu, began := readCPU(), time.Now()
	for done := 0; done < events; {
		n, err := fx.pollOnce(ctx, conn, client)
		if err != nil {
			return DrainResult{}, err
		}
		if done += n; n == 0 {
			if err := awaitNotification(ctx, conn); err != nil {
				return DrainResult{}, err
			}
		}
	}
	took := time.Since(began)
	result := DrainResult{
		Events: events, Topics: 1, Seconds: round(took.Seconds(), 2), EventsPerSecond: rate(events, took),
		CPUSeconds: readCPU().since(cpu),
	}
	fx.say("  the home-made poller drains %.0f events/s", result.EventsPerSecond)
	return result, nil
}

// awaitNotification waits for a producer, or until it is time to look anyway.
func awaitNotification(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, pollerIdle)
	defer cancel()
	if _, err := conn.WaitForNotification(waiting); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("wait as the poller: %w", err)
	}
	return ctx.Err()
}

// pollOnce claims events, sends them, and marks them as sent, in one transaction.
func (fx *fixture) pollOnce(ctx context.Context, conn *pgx.Conn, client bareClient) (sent int, err error) {
	queue, entries := fx.queues[0], entriesOf(fx.payload)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, pollerClaimSQL, max(1, min(pollerClaims, pollerBytes/fx.payload)))
		if err != nil {
			return err
		}
		events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pollerEvent])
		if err != nil {
			return err
		}
		group, sending := errgroup.WithContext(ctx)
		group.SetLimit(requestsOfOneTopic)
		ids := make([]int64, len(events))
		for from := 0; from < len(events); from += entries {
			part := events[from:min(from+entries, len(events))]
			for i := range part {
				ids[from+i] = part[i].ID
			}
			group.Go(func() error { return pollerSend(sending, client.sqs, queue, part) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		sent = len(events)
		_, err = tx.Exec(ctx, pollerDoneSQL, ids)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("publish as the poller: %w", err)
	}
	return sent, nil
}

func pollerSend(ctx context.Context, client *sqs.Client, queue string, events []pollerEvent) error {
	contentType, header := "application/json", traceHeader
	in := &sqs.SendMessageBatchInput{QueueUrl: &queue, Entries: make([]types.SendMessageBatchRequestEntry, len(events))}
	for i := range events {
		e, id := &events[i], strconv.Itoa(i)
		text := func(value *string) types.MessageAttributeValue {
			return types.MessageAttributeValue{DataType: &stringType, StringValue: value}
		}
		in.Entries[i] = types.SendMessageBatchRequestEntry{
			Id: &id, MessageBody: &e.Payload,
			MessageAttributes: map[string]types.MessageAttributeValue{
				"event_id": text(&e.EventID), "event_type": text(&e.Type), "content_type": text(&contentType), "traceparent": text(&e.Traceparent),
			},
			MessageSystemAttributes: map[string]types.MessageSystemAttributeValue{
				"AWSTraceHeader": {DataType: &stringType, StringValue: &header},
			},
		}
	}
	out, err := client.SendMessageBatch(ctx, in)
	if err == nil && len(out.Failed) > 0 {
		err = errEntryFailed
	}
	return err
}
