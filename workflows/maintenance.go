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
	// KeepDays is the number of days after its own day for which a partition is kept. Default
	// DefaultKeepDays.
	KeepDays int `json:"keepDays,omitempty"`
	// AheadDays is the number of days after today that must have a partition. Default
	// DefaultAheadDays.
	AheadDays int `json:"aheadDays,omitempty"`
}

// MaintenanceResult lists the changes and the warnings of a run.
type MaintenanceResult struct {
	relay.Partitions
	relay.Health
	// Warnings name problems that an operator has to solve.
	Warnings []string `json:"warnings,omitempty"`
}

// Maintenance makes the event table's partitions for the days ahead, drops expired partitions
// that have no pending or dead events, and warns of problems that an operator has to solve. A
// schedule runs it every hour.
func Maintenance(ctx workflow.Context, in MaintenanceInput) (r MaintenanceResult, err error) {
	if in.KeepDays <= 0 {
		in.KeepDays = DefaultKeepDays
	}
	if in.AheadDays <= 0 {
		in.AheadDays = DefaultAheadDays
	}
	var dropped relay.Partitions
	ahead := activities.PartitionsRequest{Days: in.AheadDays}
	if err := workflow.ExecuteActivity(maintenanceOptions(ctx, "make partitions for the days ahead"), act.EnsurePartitions, ahead).Get(ctx, &r.Partitions); err != nil {
		return r, fmt.Errorf("make partitions: %w", err)
	}
	keep := activities.PartitionsRequest{Days: in.KeepDays}
	if err := workflow.ExecuteActivity(maintenanceOptions(ctx, "drop expired partitions"), act.DropExpiredPartitions, keep).Get(ctx, &dropped); err != nil {
		return r, fmt.Errorf("drop expired partitions: %w", err)
	}
	r.Dropped, r.Deleted, r.Needed = dropped.Dropped, dropped.Deleted, dropped.Needed
	r.Left = append(r.Left, dropped.Left...)
	if err := workflow.ExecuteActivity(maintenanceOptions(ctx, "look for problems ahead"), act.OutboxStats).Get(ctx, &r.Health); err != nil {
		return r, fmt.Errorf("read statistics: %w", err)
	}
	r.Warnings = warnings(in, r)
	workflow.SetCurrentDetails(ctx, r.details())
	return r, nil
}

// details returns the text that the UI shows for a run that is over.
func (r MaintenanceResult) details() string {
	if len(r.Warnings) == 0 {
		return withBlankLine(fmt.Sprintf("Partitions and retention are in order: partitions exist for %d days ahead. "+
			"The run of `Relay` shows the state of the topics.", r.Ahead))
	}
	list := make([]string, len(r.Warnings))
	for i, w := range r.Warnings {
		list[i] = "- " + escape(w, maxCause)
	}
	return withBlankLine("Action needed:\n\n" + strings.Join(list, "\n"))
}

// warnings returns the problems that an operator has to solve, each with its remedy.
func warnings(in MaintenanceInput, r MaintenanceResult) (list []string) {
	if r.NotEnqueued != "" {
		list = append(list, r.NotEnqueued)
	}
	if len(r.Needed) > 0 {
		list = append(list, fmt.Sprintf("%d expired days are kept, the oldest is %s, because they have pending or dead events: "+
			"publish, redrive or discard these events", len(r.Needed), r.Needed[0]))
	}
	list = append(list, r.Left...)
	if len(r.Later) > 0 {
		list = append(list, fmt.Sprintf("%d days have no partition, the first is %s: their events go to the default partition, which has %d events. "+
			"Publishing is not affected, and retention deletes these events when they expire", len(r.Later), r.Later[0], r.Caught))
	} else if r.Caught > 0 {
		list = append(list, fmt.Sprintf("%d events are in the default partition, because their days had no partition. "+
			"Publishing is not affected, and retention deletes these events when they expire", r.Caught))
	}
	if r.Ahead < in.AheadDays/2 {
		list = append(list, fmt.Sprintf("partitions exist for %d days only, and should exist for %d", r.Ahead, in.AheadDays))
	}
	if r.HeldXIDs > heldXIDs {
		list = append(list, fmt.Sprintf("%s holds vacuum back by %d transactions: until %[1]s ends, the table outbox.pending grows, and scans of the table take longer", r.HeldBy, r.HeldXIDs))
	}
	return list
}
