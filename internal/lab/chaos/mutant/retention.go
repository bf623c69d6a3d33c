package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
)

// careless drops expired partitions, and what the default one has of those days, and does
// not look whether anything of them is pending or dead. Like the real one it does not wait
// for producers.
type careless struct{ *postgres.Store }

const dropSQL = `
DO $$
DECLARE name text;
BEGIN
    SET LOCAL lock_timeout = '50ms';
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'outbox.event'::regclass AND c.relname ~ '^event_[0-9]{8}$'
          AND to_date(substr(c.relname, 7), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - 1
    LOOP
        EXECUTE format('DROP TABLE outbox.%I', name);
    END LOOP;
    DELETE FROM outbox.event_default WHERE created_at < (now() AT TIME ZONE 'UTC')::date - 1;
END $$`

func (careless) DropPartitions(ctx context.Context, _ int, _ func()) (done relay.Partitions, err error) {
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return done, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var refused *pgconn.PgError
		if _, err = conn.Exec(ctx, dropSQL); !errors.As(err, &refused) {
			return done, err
		}
		select {
		case <-ctx.Done():
			return done, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// hoarding says that everything expired is still needed.
type hoarding struct{ *postgres.Store }

func (hoarding) DropPartitions(context.Context, int, func()) (relay.Partitions, error) {
	return relay.Partitions{}, nil
}
