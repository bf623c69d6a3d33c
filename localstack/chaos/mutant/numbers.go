package main

import (
	"context"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
)

// byNumber settles what is acknowledged a second time, seconds later and by its number
// alone, as a worker does that heard of it before the database was replaced.
type byNumber struct{ *postgres.Store }

// late is when the database may have been replaced and given the number to another event.
const late = 6 * time.Second

func (s byNumber) Settle(ctx context.Context, topic string, done []relay.Ref) error {
	ids := make([]int64, len(done))
	for i, ref := range done {
		ids[i] = ref.ID
	}
	time.AfterFunc(late, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), late)
		defer cancel()
		conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
		if err != nil {
			return
		}
		defer conn.Close(ctx)
		_, _ = conn.Exec(ctx, `DELETE FROM outbox.pending WHERE id = ANY ($1)`, ids)
	})
	return s.Store.Settle(ctx, topic, done)
}
