package bench

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/lab/bench/sink"
	"github.com/temporal-outbox/relay/internal/stack"
)

// fixtureSpec says what a fixture has. The zero value of a field is the default.
type fixtureSpec struct {
	name       string
	topicCount int           // default 1
	keys       int           // that events are spread over; default 10,000
	payload    int           // bytes of an event; default 512
	fifo       bool          // the destinations are ordered
	sns        bool          // SNS topics instead of queues; only with a sink
	sink       *sink.Process // the destination; default the emulator
}

func (s fixtureSpec) withDefaults() fixtureSpec {
	for _, d := range []struct {
		value    *int
		standard int
	}{{&s.topicCount, 1}, {&s.keys, 10_000}, {&s.payload, payloadBytes}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	return s
}

// fixture is made for one measurement: a database, topics with a destination each, and at
// times workers.
type fixture struct {
	*environment
	fixtureSpec
	database string
	env      stack.Vars
	pool     *pgxpool.Pool
	topics   []string
	queues   []string // URLs or ARNs, one for each topic
	names    []string // of the queues
	config   string   // path of the file that routes the topics
	inserted int      // events so far; each has a number of its own
	worker   *worker
	others   []*worker
	launched int // workers, by addWorker
}

// eventsOfSink is how many events of a fixture the sink can tell apart. Unused
// numbers take no memory.
const eventsOfSink = 5_000_000

// newFixture makes a migrated database and topics on the emulator or the sink.
func (e *environment) newFixture(ctx context.Context, spec fixtureSpec) (_ *fixture, err error) {
	e.fixtures++
	fx := &fixture{environment: e, fixtureSpec: spec.withDefaults()}
	fx.database = fmt.Sprintf("%s_%d_%s", strings.ReplaceAll(e.token, "-", "_"), e.fixtures, strings.ReplaceAll(spec.name, "-", "_"))
	url, err := onDatabase(e.vars.Get("DATABASE_URL"), fx.database)
	if err != nil {
		return nil, err
	}
	fx.config = filepath.Join(e.dir, fx.database+".yaml")
	fx.env = e.vars.With("DATABASE_URL="+url, "OUTBOX_CONFIG="+fx.config)
	if fx.sink != nil {
		fx.env = fx.env.With("AWS_ENDPOINT_URL=" + fx.sink.URL)
	}
	if err := e.onServer(ctx, "CREATE DATABASE "+fx.database); err != nil {
		return nil, fmt.Errorf("create a database to measure in: %w", err)
	}
	defer func() {
		if err != nil {
			fx.close()
		}
	}()
	if err := e.starter(ctx, fx.env, "migrate"); err != nil {
		return nil, err
	}
	poolConfig, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read DATABASE_URL: %w", err)
	}
	poolConfig.MaxConns = 20
	if fx.pool, err = pgxpool.NewWithConfig(ctx, poolConfig); err != nil {
		return nil, fmt.Errorf("open a pool: %w", err)
	}
	return fx, fx.createTopics(ctx)
}

// createTopics makes the destinations, and routes the topics to them.
func (fx *fixture) createTopics(ctx context.Context) error {
	suffix := ""
	if fx.fifo {
		suffix = ".fifo"
	}
	if fx.sink != nil {
		if err := fx.sink.Reset(ctx, eventsOfSink); err != nil {
			return err
		}
		if err := fx.sink.Behave(ctx, "", sink.Behaviour{}); err != nil {
			return err
		}
	}
	for i := range fx.topicCount {
		name := fmt.Sprintf("%s-%d-%s-%02d%s", fx.token, fx.fixtures, fx.name, i, suffix)
		var address string
		switch {
		case fx.sns:
			address = sink.ARN(name)
		case fx.sink != nil:
			address = fx.sink.QueueURL(name)
		default:
			var err error
			if address, err = createQueue(ctx, fx.sqs, name); err != nil {
				return err
			}
		}
		fx.topics, fx.queues, fx.names = append(fx.topics, fmt.Sprintf("topic-%02d", i)), append(fx.queues, address), append(fx.names, name)
	}
	return fx.route("")
}

// route writes the file that routes the topics, with more keys for each.
func (fx *fixture) route(more string) error {
	var file strings.Builder
	file.WriteString("topics:\n")
	for i, topic := range fx.topics {
		if fx.sns {
			fmt.Fprintf(&file, "  %s: {sns: %q%s}\n", topic, fx.queues[i], more)
			continue
		}
		fmt.Fprintf(&file, "  %s: {sqs: %s%s}\n", topic, fx.names[i], more)
	}
	return os.WriteFile(fx.config, []byte(file.String()), 0o600)
}

// onDatabase is the URL of another database on the same server.
func onDatabase(base, name string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "" {
		return "", fmt.Errorf("DATABASE_URL must be a URL to be measured: postgres://user:password@host/name")
	}
	u.Path = "/" + name
	return u.String(), nil
}

// close stops the workers and removes database and queues. The emulator keeps the messages
// of a queue in memory.
func (fx *fixture) close() {
	ctx := context.Background()
	if len(fx.workers()) > 0 {
		if err := fx.stop(ctx); err != nil {
			fx.say("stop the relay: %v", err)
		}
	}
	for _, queue := range fx.queues {
		if fx.sink != nil {
			break // it keeps nothing
		}
		if err := fx.deleteQueue(ctx, queue); err != nil {
			fx.say("%v", err)
		}
	}
	if fx.pool != nil {
		fx.pool.Close()
	}
	if err := fx.onServer(ctx, "DROP DATABASE IF EXISTS "+fx.database+" WITH (FORCE)"); err != nil {
		fx.say("drop database %s: %v", fx.database, err)
	}
}

// insertSQL commits events $1..$2-1, spread over topics and over $5 keys. $6 fills the
// payload up. The traceparent is what a traced producer writes: with it an event has all four
// of the relay's attributes.
const insertSQL = `
INSERT INTO outbox.event (topic, key, type, payload, attributes)
SELECT ($3::text[])[1 + n % cardinality($3::text[])], 'key-' || n % $5::int, 'BenchEvent',
       '{"marker":"bench-' || lpad(n::text, 7, '0') || '-","pad":"' || $6::text || '"}',
       jsonb_build_object('traceparent', $4::text)
FROM generate_series($1::bigint, $2::bigint - 1) n`

// insertBytes is how much one transaction of insert writes at most, or 5,000 events.
const insertBytes = 16 << 20

// insert writes events in large transactions.
func (fx *fixture) insert(ctx context.Context, events int) error {
	chunk := max(1, min(5000, insertBytes/fx.payload))
	first, end, filler := fx.inserted, fx.inserted+events, filler(fx.payload)
	fx.inserted = end
	for from := first; from < end; from += chunk {
		if _, err := fx.pool.Exec(ctx, insertSQL, from, min(from+chunk, end), fx.topics, traceparent, fx.keys, filler); err != nil {
			return fmt.Errorf("insert events: %w", err)
		}
	}
	return nil
}

// settleDown gets the server's own work out of the way, so that it falls into no
// measurement by chance: what the inserts left dirty is written now, and the
// event table, which the relay only reads, is not vacuumed meanwhile. The tables
// that the relay writes keep their autovacuum.
func (fx *fixture) settleDown(ctx context.Context) error {
	const partitions = `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass`
	rows, err := fx.pool.Query(ctx, partitions)
	if err != nil {
		return fmt.Errorf("list partitions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list partitions: %w", err)
	}
	for _, name := range names {
		if _, err := fx.pool.Exec(ctx, "ALTER TABLE "+name+" SET (autovacuum_enabled = off)"); err != nil {
			return fmt.Errorf("keep autovacuum from %s: %w", name, err)
		}
	}
	if _, err := fx.pool.Exec(ctx, "CHECKPOINT"); err == nil {
		return nil
	}
	// The owner of a database may give itself the right, before PostgreSQL 16.
	if _, err := fx.pool.Exec(ctx, "GRANT pg_checkpoint TO CURRENT_USER"); err == nil {
		_, err = fx.pool.Exec(ctx, "CHECKPOINT")
		if err == nil {
			return nil
		}
	}
	fx.noteOnce("no right to CHECKPOINT: the drain may share the disk with one")
	return nil
}
