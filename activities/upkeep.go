package activities

import (
	"context"

	"github.com/temporal-outbox/relay/internal/relay"
)

// PartitionsRequest says how many days to have partitions for, or to keep.
type PartitionsRequest struct {
	Days int `json:"days"`
}

// EnsurePartitions makes the partitions of today and the next days.
func (a *Activities) EnsurePartitions(ctx context.Context, r PartitionsRequest) (relay.Partitions, error) {
	defer beat(ctx)()
	done, err := a.cfg.Store.MakePartitions(ctx, r.Days, nil)
	return done, failure(ctx, err, done)
}

// DropExpiredPartitions drops the partitions of days that ended that many days ago
// and of which nothing is pending or dead, and deletes such days' events from the default
// partition.
func (a *Activities) DropExpiredPartitions(ctx context.Context, r PartitionsRequest) (relay.Partitions, error) {
	defer beat(ctx)()
	done, err := a.cfg.Store.DropPartitions(ctx, r.Days, nil)
	return done, failure(ctx, err, done)
}

// OutboxStats reads what an operator should know of the database before it hurts.
func (a *Activities) OutboxStats(ctx context.Context) (relay.Health, error) {
	defer beat(ctx)()
	h, err := a.cfg.Store.Health(ctx)
	if err == nil {
		a.cfg.Metrics.Health(h)
	}
	return h, failure(ctx, err, nil)
}
