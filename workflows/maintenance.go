package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
)

// MaintenanceInput configures a run of Maintenance. The zero value is the default.
type MaintenanceInput struct {
	// KeepDays is for how many days after its own a partition is kept. Default
	// DefaultKeepDays.
	KeepDays int `json:"keepDays,omitempty"`
	// AheadDays is for how many days after today there are to be partitions. Default
	// DefaultAheadDays.
	AheadDays int `json:"aheadDays,omitempty"`
}

// MaintenanceResult says what a run did and found.
type MaintenanceResult struct {
	relay.Partitions
	relay.Health
	// Warnings are for somebody to act on.
	Warnings []string `json:"warnings,omitempty"`
}

// Maintenance makes the event table's partitions ahead, drops expired ones that
// nobody needs any more, and reports what will hurt if nobody acts. A schedule runs
// it every hour.
func Maintenance(ctx workflow.Context, in MaintenanceInput) (r MaintenanceResult, err error) {
	if in.KeepDays <= 0 {
		in.KeepDays = DefaultKeepDays
	}
	if in.AheadDays <= 0 {
		in.AheadDays = DefaultAheadDays
	}
	var dropped relay.Partitions
	ahead := activities.PartitionsRequest{Days: in.AheadDays}
	if err := workflow.ExecuteActivity(maintenanceOptions(ctx, "make partitions ahead"), act.EnsurePartitions, ahead).Get(ctx, &r.Partitions); err != nil {
		return r, fmt.Errorf("make partitions: %w", err)
	}
	keep := activities.PartitionsRequest{Days: in.KeepDays}
	if err := workflow.ExecuteActivity(maintenanceOptions(ctx, "drop expired partitions"), act.DropExpiredPartitions, keep).Get(ctx, &dropped); err != nil {
		return r, fmt.Errorf("drop expired partitions: %w", err)
	}
	r.Dropped, r.Deleted, r.Needed = dropped.Dropped, dropped.Deleted, dropped.Needed
	r.Left = append(r.Left, dropped.Left...)
	if err := workflow.ExecuteActivity(maintenanceOptions(ctx, "look for what will hurt"), act.OutboxStats).Get(ctx, &r.Health); err != nil {
		return r, fmt.Errorf("read statistics: %w", err)
	}
	r.Warnings = warnings(in, r)
	workflow.SetCurrentDetails(ctx, r.details())
	return r, nil
}

// details is what the UI shows of a run that is over.
func (r MaintenanceResult) details() string {
	if len(r.Warnings) == 0 {
		return framed(fmt.Sprintf("Partitions and retention are as they should be: there are partitions for %d days ahead. "+
			"What the topics have is in the run of `Relay`.", r.Ahead))
	}
	list := make([]string, len(r.Warnings))
	for i, w := range r.Warnings {
		list[i] = "- " + escape(w, maxCause)
	}
	return framed("Somebody should act:\n\n" + strings.Join(list, "\n"))
}

// warnings says what somebody should act on, with the remedy.
func warnings(in MaintenanceInput, r MaintenanceResult) (list []string) {
	if r.NotEnqueued != "" {
		list = append(list, r.NotEnqueued)
	}
	if len(r.Needed) > 0 {
		list = append(list, fmt.Sprintf("%d expired days are kept, the oldest is %s, because events of them are pending or dead: "+
			"publish, redrive or discard those", len(r.Needed), r.Needed[0]))
	}
	list = append(list, r.Left...)
	if len(r.Later) > 0 {
		list = append(list, fmt.Sprintf("%d days have no partition, the first is %s: their events go to the default partition, which has %d events; "+
			"publishing is not affected, and retention deletes those events when they expire", len(r.Later), r.Later[0], r.Caught))
	} else if r.Caught > 0 {
		list = append(list, fmt.Sprintf("%d events are in the default partition, because their days had no partition of their own: "+
			"publishing is not affected, and retention deletes them when they expire", r.Caught))
	}
	if r.Ahead < in.AheadDays/2 {
		list = append(list, fmt.Sprintf("there are partitions for %d days only, and there should be %d", r.Ahead, in.AheadDays))
	}
	if r.HeldXIDs > heldXIDs {
		list = append(list, fmt.Sprintf("%s holds vacuum back by %d transactions: outbox.pending and the sweeps over it grow until it ends", r.HeldBy, r.HeldXIDs))
	}
	return list
}
