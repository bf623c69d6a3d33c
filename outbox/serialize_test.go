package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

var serial = outbox.Writer{SerializeKeys: true}

// Writers take many keys of two topics each, in random order and with repeats,
// and hold them for a moment. What is recorded between Write and Commit is
// recorded under the locks, so per key the record is in commit order.
func TestSerializeKeys_NeverDeadlocksAndIDsFollowCommitOrder(t *testing.T) {
	const writers, rounds, keys, each = 8, 25, 24, 10
	pool := testenv.Database(t)
	var mu sync.Mutex
	committed := map[string][]int64{}

	round := func(conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.Background()) }()

		var events []outbox.Event
		var ids []outbox.ID
		for range each {
			n := rand.IntN(keys)
			e := event(topic(fmt.Sprint("topic-", n%2)), key(fmt.Sprint("key-", n)))
			e.ID = outbox.NewID()
			events, ids = append(events, e), append(ids, e.ID)
		}
		if err := serial.Write(ctx, tx, events...); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT key, id FROM outbox.event WHERE event_id = ANY($1) ORDER BY id", ids)
		if err != nil {
			return err
		}
		var k string
		var id int64
		mu.Lock()
		_, err = pgx.ForEachRow(rows, []any{&k, &id}, func() error {
			committed[k] = append(committed[k], id)
			return nil
		})
		mu.Unlock()
		if err != nil {
			return err
		}
		return tx.Commit(ctx)
	}

	var wg sync.WaitGroup
	for range writers {
		conn := connect(t, pool)
		wg.Go(func() {
			for range rounds {
				if err := round(conn); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()

	total := 0
	for k, ids := range committed {
		total += len(ids)
		if !slices.IsSorted(ids) {
			t.Errorf("%s: ids are not in commit order: %v", k, ids)
		}
	}
	if total != writers*rounds*each && !t.Failed() {
		t.Errorf("%d events recorded, want %d", total, writers*rounds*each)
	}
}

func TestSerializeKeys_ATransactionWaitsForTheEndOfTheOneBefore(t *testing.T) {
	for name, end := range map[string]func(pgx.Tx) error{
		"commit":   func(tx pgx.Tx) error { return tx.Commit(context.Background()) },
		"rollback": func(tx pgx.Tx) error { return tx.Rollback(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			pool := testenv.Database(t)
			first, connection := begin(t, connect(t, pool)), connect(t, pool)
			second := begin(t, connection)
			if err := serial.Write(context.Background(), first, event()); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- serial.Write(context.Background(), second, event(), event(key("o-2"))) }()
			testenv.Eventually(t, 20*time.Second, func() error {
				const waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted)"
				if !scan[bool](t, pool, waiting, connection.PgConn().PID()) {
					return errors.New("the second transaction does not wait for the first")
				}
				return nil
			})
			if err := end(first); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestSerializeKeys_OnlyTheSameKeyOfTheSameTopicWaits(t *testing.T) {
	pool := testenv.Database(t)
	first := begin(t, connect(t, pool))
	if err := serial.Write(context.Background(), first, event(), event(key(""))); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		writer outbox.Writer
		events []outbox.Event
		waits  bool
	}{
		"the same key":                  {serial, []outbox.Event{event()}, true},
		"another key":                   {serial, []outbox.Event{event(key("o-2"))}, false},
		"the same key of another topic": {serial, []outbox.Event{event(topic("audit"))}, false},
		"no key, beside another key":    {serial, []outbox.Event{event(key("")), event(key("o-2"))}, false},
		"the same key, not serialised":  {outbox.Writer{}, []outbox.Event{event()}, false},
	} {
		tx := begin(t, connect(t, pool))
		exec(t, tx, "SET LOCAL lock_timeout = '200ms'")
		err := test.writer.Write(context.Background(), tx, test.events...)
		var pgErr *pgconn.PgError
		waited := errors.As(err, &pgErr) && pgErr.Code == "55P03" // lock_not_available
		if waited != test.waits || !waited && err != nil {
			t.Errorf("%s: waited %v, want %v: %v", name, waited, test.waits, err)
		}
		_ = tx.Rollback(context.Background()) // lets go of what it did lock
	}
}

func TestSerializeKeys_AProducerInPlainSQLTakesTheSameLock(t *testing.T) {
	pool := testenv.Database(t)
	// The statement that Writer's documentation gives.
	exec(t, begin(t, connect(t, pool)), "SELECT pg_advisory_xact_lock(hashtextextended('outbox/' || $1 || '/' || $2, 0))",
		"orders", "o-1")
	tx := begin(t, connect(t, pool))
	exec(t, tx, "SET LOCAL lock_timeout = '100ms'")
	var pgErr *pgconn.PgError
	if err := serial.Write(context.Background(), tx, event()); !errors.As(err, &pgErr) || pgErr.Code != "55P03" {
		t.Errorf("%v, want a lock timeout", err)
	}
}
