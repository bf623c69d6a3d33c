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

	"github.com/temporal-outbox/relay/internal/stack"
)

// fixture is made for one measurement: a database, topics with a queue each, and at times
// a worker.
type fixture struct {
	*environment
	name   string
	env    stack.Vars
	pool   *pgxpool.Pool
	topics []string
	queues []string // URLs, one for each topic
	names  []string // of the queues
	config string   // path of the file that routes the topics
	keys   int      // that events are spread over
	worker *worker
}

// newFixture makes a migrated database and n topics. suffix is the queues' (".fifo").
func (e *environment) newFixture(ctx context.Context, name string, n int, suffix string) (_ *fixture, err error) {
	fx := &fixture{environment: e, keys: 10_000, name: strings.ReplaceAll(e.token, "-", "_") + "_" + name}
	url, err := onDatabase(e.vars.Get("DATABASE_URL"), fx.name)
	if err != nil {
		return nil, err
	}
	fx.config = filepath.Join(e.dir, fx.name+".yaml")
	fx.env = e.vars.With("DATABASE_URL="+url, "OUTBOX_CONFIG="+fx.config)
	if err := e.onServer(ctx, "CREATE DATABASE "+fx.name); err != nil {
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
	for i := range n {
		topic := fmt.Sprintf("topic-%02d", i)
		queue := fmt.Sprintf("%s-%s-%02d%s", e.token, name, i, suffix)
		queueURL, err := createQueue(ctx, e.sqs, queue)
		if err != nil {
			return nil, err
		}
		fx.topics, fx.queues, fx.names = append(fx.topics, topic), append(fx.queues, queueURL), append(fx.names, queue)
	}
	return fx, fx.route("")
}

// route writes the file that routes the topics, with more keys for each.
func (fx *fixture) route(more string) error {
	var file strings.Builder
	file.WriteString("topics:\n")
	for i, topic := range fx.topics {
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

// close stops the worker and removes database and queues. The emulator keeps the messages
// of a queue in memory.
func (fx *fixture) close() {
	ctx := context.Background()
	if fx.worker != nil {
		if err := fx.stop(ctx); err != nil {
			fx.say("stop the relay: %v", err)
		}
	}
	for _, queue := range fx.queues {
		if err := fx.deleteQueue(ctx, queue); err != nil {
			fx.say("%v", err)
		}
	}
	if fx.pool != nil {
		fx.pool.Close()
	}
	if err := fx.onServer(ctx, "DROP DATABASE IF EXISTS "+fx.name+" WITH (FORCE)"); err != nil {
		fx.say("drop database %s: %v", fx.name, err)
	}
}

// insertSQL commits events $1..$2-1, spread over topics and over $5 keys. The
// payload is 512 bytes of JSON, and the traceparent is what a traced producer
// writes: with it an event has all four of the relay's attributes.
const insertSQL = `
INSERT INTO outbox.event (topic, key, type, payload, attributes)
SELECT ($3::text[])[1 + n % cardinality($3::text[])], 'key-' || n % $5::int, 'BenchEvent',
       rpad('{"marker":"bench-' || lpad(n::text, 7, '0') || '-","pad":"', 510, 'x') || '"}',
       jsonb_build_object('traceparent', $4::text)
FROM generate_series($1::bigint, $2::bigint - 1) n`

// insert writes events in transactions of 5,000.
func (fx *fixture) insert(ctx context.Context, events int) error {
	const chunk = 5000
	for from := 0; from < events; from += chunk {
		if _, err := fx.pool.Exec(ctx, insertSQL, from, min(from+chunk, events), fx.topics, traceparent, fx.keys); err != nil {
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
