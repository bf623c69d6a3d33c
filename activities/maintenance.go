package activities

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// MaintenanceStore is the part of Store that maintenance needs.
type MaintenanceStore interface {
	MakePartitions(ctx context.Context, ahead int, progress func()) (relay.Partitions, error)
	DropPartitions(ctx context.Context, keep int, progress func()) (relay.Partitions, error)
	Health(ctx context.Context) (relay.Health, error)
	// KeepReceipts notes which topics keep receipts, and makes partitions for them. left says of
	// days without one why, and the remedy.
	KeepReceipts(ctx context.Context, topics map[string]time.Duration, ahead int) (left []string, err error)
	DropReceipts(ctx context.Context) (left []string, err error)
	// Shrink gives disk space back that a backlog has taken, if that is possible now.
	Shrink(ctx context.Context) (done bool, err error)
}

// PartitionsRequest says how many days to have partitions for, or to keep.
type PartitionsRequest struct {
	Days int `json:"days"`
}

// EnsurePartitions makes the partitions of today and the next days, and those of receipts
// where topics keep receipts. Without the latter it succeeds too, and says so in Left. It also gives disk space back,
// because this activity is in every run of maintenance.
func (a *Activities) EnsurePartitions(ctx context.Context, r PartitionsRequest) (relay.Partitions, error) {
	defer beat(ctx)()
	done, err := a.maintenance.MakePartitions(ctx, r.Days, nil)
	if err == nil {
		done.Left = append(done.Left, asWarnings(a.maintenance.KeepReceipts(ctx, a.cfg.keepReceipts(), r.Days))...)
		if _, err := a.maintenance.Shrink(ctx); err != nil {
			done.Left = append(done.Left, err.Error())
		}
	}
	return done, failure(ctx, err, done)
}

// DropExpiredPartitions drops the partitions of days that ended that many days ago
// and of which nothing is pending or dead, and deletes such days' events from the default
// partition. It drops receipts that no topic keeps any more.
func (a *Activities) DropExpiredPartitions(ctx context.Context, r PartitionsRequest) (relay.Partitions, error) {
	defer beat(ctx)()
	done, err := a.maintenance.DropPartitions(ctx, r.Days, nil)
	if err == nil {
		done.Left = append(done.Left, asWarnings(a.maintenance.DropReceipts(ctx))...)
	}
	return done, failure(ctx, err, done)
}

// OutboxStats reads what an operator should know of the database before it hurts.
func (a *Activities) OutboxStats(ctx context.Context) (relay.Health, error) {
	defer beat(ctx)()
	h, err := a.maintenance.Health(ctx)
	if err == nil {
		a.cfg.Metrics.Health(h)
	}
	return h, failure(ctx, err, nil)
}

// asWarnings makes a warning of an error: publishing and retention need no receipts.
func asWarnings(left []string, err error) []string {
	if err != nil {
		left = append(left, "receipts: "+err.Error())
	}
	return left
}
