package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/stack"
)

// bed is what one measurement runs in: a database, topics with a queue each, and
// at times a worker.
type bed struct {
	*rig
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

// newBed makes a migrated database and n topics. suffix is the queues' (".fifo").
func (r *rig) newBed(ctx context.Context, name string, n int, suffix string) (_ *bed, err error) {
	b := &bed{rig: r, keys: 10_000, name: strings.ReplaceAll(r.token, "-", "_") + "_" + name}
	url, err := onDatabase(r.environ.Get("DATABASE_URL"), b.name)
	if err != nil {
		return nil, err
	}
	b.config = filepath.Join(r.dir, b.name+".yaml")
	b.env = r.environ.With("DATABASE_URL="+url, "OUTBOX_CONFIG="+b.config)
	if err := r.onServer(ctx, "CREATE DATABASE "+b.name); err != nil {
		return nil, fmt.Errorf("create a database to measure in: %w", err)
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := r.starter(ctx, b.env, "migrate"); err != nil {
		return nil, err
	}
	poolConfig, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read DATABASE_URL: %w", err)
	}
	poolConfig.MaxConns = 20
	if b.pool, err = pgxpool.NewWithConfig(ctx, poolConfig); err != nil {
		return nil, fmt.Errorf("open a pool: %w", err)
	}
	for i := range n {
		topic := fmt.Sprintf("topic-%02d", i)
		queue := fmt.Sprintf("%s-%s-%02d%s", r.token, name, i, suffix)
		queueURL, err := createQueue(ctx, r.sqs, queue)
		if err != nil {
			return nil, err
		}
		b.topics, b.queues, b.names = append(b.topics, topic), append(b.queues, queueURL), append(b.names, queue)
	}
	return b, b.route("")
}

// route writes the file that routes the topics, with more keys for each.
func (b *bed) route(more string) error {
	var file strings.Builder
	file.WriteString("topics:\n")
	for i, topic := range b.topics {
		fmt.Fprintf(&file, "  %s: {sqs: %s%s}\n", topic, b.names[i], more)
	}
	return os.WriteFile(b.config, []byte(file.String()), 0o600)
}

// close stops the worker and removes database and queues: the emulator keeps
// what is in them in memory.
func (b *bed) close() {
	ctx := context.Background()
	if b.worker != nil {
		if err := b.stop(ctx); err != nil {
			b.say("stop the relay: %v", err)
		}
	}
	for _, queue := range b.queues {
		if err := b.deleteQueue(ctx, queue); err != nil {
			b.say("%v", err)
		}
	}
	if b.pool != nil {
		b.pool.Close()
	}
	if err := b.onServer(ctx, "DROP DATABASE IF EXISTS "+b.name+" WITH (FORCE)"); err != nil {
		b.say("drop database %s: %v", b.name, err)
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
func (b *bed) insert(ctx context.Context, events int) error {
	const chunk = 5000
	for from := 0; from < events; from += chunk {
		if _, err := b.pool.Exec(ctx, insertSQL, from, min(from+chunk, events), b.topics, traceparent, b.keys); err != nil {
			return fmt.Errorf("insert events: %w", err)
		}
	}
	return nil
}

// settleDown gets the server's own work out of the way, so that it falls into no
// measurement by chance: what the inserts left dirty is written now, and the
// event table, which the relay only reads, is not vacuumed meanwhile. The tables
// that the relay writes keep their autovacuum.
func (b *bed) settleDown(ctx context.Context) error {
	const partitions = `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass`
	rows, err := b.pool.Query(ctx, partitions)
	if err != nil {
		return fmt.Errorf("list partitions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list partitions: %w", err)
	}
	for _, name := range names {
		if _, err := b.pool.Exec(ctx, "ALTER TABLE "+name+" SET (autovacuum_enabled = off)"); err != nil {
			return fmt.Errorf("keep autovacuum from %s: %w", name, err)
		}
	}
	if _, err := b.pool.Exec(ctx, "CHECKPOINT"); err == nil {
		return nil
	}
	// The owner of a database may give itself the right, before PostgreSQL 16.
	if _, err := b.pool.Exec(ctx, "GRANT pg_checkpoint TO CURRENT_USER"); err == nil {
		_, err = b.pool.Exec(ctx, "CHECKPOINT")
		if err == nil {
			return nil
		}
	}
	b.noteOnce("no right to CHECKPOINT: the drain may share the disk with one")
	return nil
}
