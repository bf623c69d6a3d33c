package outbox_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// modes are all that a service may run pgx in; the last is what poolers without
// prepared statements need.
var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

func in(mode pgx.QueryExecMode) func(*pgx.ConnConfig) {
	return func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = mode }
}

func TestWrite_StoresEventsUnchangedInTheirOrderInEveryQueryMode(t *testing.T) {
	pool := testenv.Database(t)
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			conn := connect(t, pool, in(mode))
			rapid.Check(t, func(rt *rapid.T) {
				events := rapid.SliceOfN(validEvents(), 1, 5).Draw(rt, "events")
				for i := range events {
					if rapid.Bool().Draw(rt, "own id") {
						events[i].ID = outbox.NewID()
					}
				}
				w := outbox.Writer{SerializeKeys: rapid.Bool().Draw(rt, "serialize")}

				tx := begin(t, conn)
				defer func() { _ = tx.Rollback(context.Background()) }()
				if err := w.Write(context.Background(), tx, events...); err != nil {
					rt.Fatal(err)
				}
				compare(rt, stored(rt, tx), events)
			})
		})
	}
}

// stored reads all events in the order of their ids.
func stored(t rapid.TB, tx pgx.Tx) []outbox.Event {
	rows, err := tx.Query(context.Background(),
		`SELECT event_id, topic, key, type, payload, content_type, attributes FROM outbox.event ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e outbox.Event, err error) {
		err = row.Scan(&e.ID, &e.Topic, &e.Key, &e.Type, &e.Payload, &e.ContentType, &e.Attributes)
		return e, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func compare(t rapid.TB, got, want []outbox.Event) {
	if len(got) != len(want) {
		t.Fatalf("%d events stored, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.ID.IsZero() || !w.ID.IsZero() && g.ID != w.ID {
			t.Errorf("event %d has the id %s, want %s", i, g.ID, w.ID)
		}
		if w.ContentType == "" {
			w.ContentType = "application/json"
		}
		if g.Topic != w.Topic || g.Key != w.Key || g.Type != w.Type || g.Payload != w.Payload ||
			g.ContentType != w.ContentType || !maps.Equal(g.Attributes, w.Attributes) {
			t.Errorf("event %d is stored as\n%+q, want\n%+q", i, g, w)
		}
	}
}

func TestWrite_StoresTheLargestEvents(t *testing.T) {
	pool := testenv.Database(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		tx := begin(t, connect(t, pool, in(mode)))
		e := event(kind("T"))
		e.Payload = strings.Repeat("x", 1<<20-e.Size()+len(e.Payload))
		if err := outbox.Write(context.Background(), tx, e, e, e); err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		compare(t, stored(t, tx), []outbox.Event{e, e, e})
	}
}

func TestWrite_KeepsTheOrderOfManyEvents(t *testing.T) {
	tx := begin(t, connect(t, testenv.Database(t)))
	events := make([]outbox.Event, 5000)
	for i := range events {
		events[i] = event(payload(fmt.Sprint(i)))
	}
	if err := outbox.Write(context.Background(), tx, events...); err != nil {
		t.Fatal(err)
	}
	compare(t, stored(t, tx), events)
}

func TestWrite_DoesNotChangeTheCallersEvents(t *testing.T) {
	tx := begin(t, connect(t, testenv.Database(t)))
	events := []outbox.Event{event(attribute("tenant", "a"))}
	if err := outbox.Write(traced(t), tx, events...); err != nil {
		t.Fatal(err)
	}
	if e := events[0]; !e.ID.IsZero() || e.ContentType != "" || len(e.Attributes) != 1 {
		t.Errorf("%+v", e)
	}
}

func TestID_IsAUUIDInEveryQueryMode(t *testing.T) {
	pool := testenv.Database(t)
	for _, mode := range modes {
		id := outbox.NewID()
		got := scan[outbox.ID](t, connect(t, pool, in(mode)), "SELECT $1::uuid", id)
		if got != id {
			t.Errorf("%v: %s comes back as %s", mode, id, got)
		}
	}
}

// trips counts how often a connection wrote after it had read: round trips.
type trips struct {
	net.Conn
	mu    *sync.Mutex
	count *int
	read  *bool
}

func (c trips) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.read = *c.read || n > 0
	return n, err
}

func (c trips) Write(p []byte) (int, error) {
	c.mu.Lock()
	if *c.read {
		*c.count++
		*c.read = false
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func TestWrite_OfAnyNumberOfEventsAndKeysTakesOneRoundTrip(t *testing.T) {
	pool := testenv.Database(t)
	var events []outbox.Event
	for i := range 200 {
		events = append(events, event(key(fmt.Sprint(i)), payload(strings.Repeat("x", 500))))
	}
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		for _, w := range []outbox.Writer{{}, {SerializeKeys: true}} {
			counted := trips{mu: new(sync.Mutex), count: new(int), read: new(bool)}
			conn := connect(t, pool, in(mode), func(c *pgx.ConnConfig) {
				dial := c.DialFunc
				c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
					var err error
					counted.Conn, err = dial(ctx, network, address)
					return counted, err
				}
			})
			tx := begin(t, conn)
			// Once per connection, pgx asks for the statements' description.
			if err := w.Write(context.Background(), tx, event(key("warm up"))); err != nil {
				t.Fatal(err)
			}
			*counted.count = 0
			if err := w.Write(context.Background(), tx, events...); err != nil {
				t.Fatal(err)
			}
			if *counted.count != 1 {
				t.Errorf("%v, %+v: %d round trips, want 1", mode, w, *counted.count)
			}
			_ = tx.Rollback(context.Background()) // the next writer takes the same keys
		}
	}
}
