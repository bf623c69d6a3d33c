package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/workflows"
)

func scheduleCommand() *cobra.Command {
	var s settings
	var attributes, yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Create or update the schedules of the relay and of its maintenance",
		Long: `Creates or updates two Temporal schedules. One keeps one Relay workflow running. The
other runs Maintenance, which makes partitions ahead and drops expired ones. Run this
command again after each upgrade.

A setting keeps its stored value unless you give its flag. The defaults below are for
new schedules. The command prints each setting that changes. A schedule that an operator
has paused stays paused. A new interval keeps the jitter, time zone and phase of the
schedule; a phase that is not smaller than the new interval is shortened.
--maintain-every 0 turns maintenance off and keeps its other settings. To lower the
retention, the command asks first and changes nothing before your answer; without a
terminal it needs --yes. If stored settings cannot be read, give all their flags, and the
command overwrites them.

The command also registers search attributes, which recoveries set. One query then finds
all recoveries: OutboxState = "recovering". If the registration is refused, as on Temporal
Cloud, the command warns, and everything else works without them.

The relay's schedule has the name of the task queue, and its runs are named
<task queue>-<time>. The name of the maintenance schedule ends with "-maintenance". To
share a namespace, give each outbox its own task queue.`,
		Example: `  starter schedule                         # after an upgrade: keeps all settings
  starter schedule --keep-days 30          # events stay for a month
  starter schedule --maintain-every 0      # another program creates and drops partitions`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.given = cmd.Flags().Changed
			if err := s.check(); err != nil {
				return err
			}
			if err := checkTaskQueue(s.taskQueue); err != nil {
				return err
			}
			c, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			o, err := clientOptions()
			if err != nil {
				return err
			}
			var flag *bool
			if s.given("search-attributes") {
				flag = &attributes
			}
			result, err := s.confirmed(cmd, yes, func(ctx context.Context) (scheduleResult, error) {
				return s.ensure(ctx, schedules{c.WorkflowService(), o.Namespace}, searchAttributes(cmd, c, flag))
			})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(result)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", result, result.Maintenance)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
	f.DurationVar(&s.every, "every", workflows.ScheduleEvery, "how often a run starts; if it is shorter than --run-for, runs follow each other without a gap")
	f.DurationVar(&s.relay.RunFor, "run-for", 0, "how long a run claims (default "+workflows.RunFor.String()+")")
	f.IntVar(&s.relay.Slots, "slots", 0, fmt.Sprintf("most batches in flight; a topic gets a quarter. It does not limit shared lanes (default %d)", workflows.DefaultSlots))
	f.IntVar(&s.relay.Concurrency, "concurrency", 0, "most requests in flight to one destination, for each batch and for the shares of each worker (default: the worker finds the number)")
	f.DurationVar(&s.relay.Linger, "linger", 0, "how long events of a batch may wait for a full page: fewer activities and requests, more latency (default 0)")
	f.DurationVar(&s.maintainEvery, "maintain-every", workflows.MaintenanceEvery, "how often Maintenance runs; 0 turns it off")
	f.IntVar(&s.maintenance.KeepDays, "keep-days", workflows.DefaultKeepDays, "for how many days after its day an event is kept; longer while any event of that day is pending or dead")
	f.IntVar(&s.maintenance.AheadDays, "ahead-days", workflows.DefaultAheadDays, "for how many days after today partitions are created")
	f.BoolVar(&attributes, "search-attributes", true, "register "+strings.Join(workflows.Attributes(), ", ")+", and have recoveries set them")
	f.BoolVar(&yes, "yes", false, "lower retention without asking")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// confirmed runs ensure, and asks if it would lower retention. Then it runs it again.
func (s *settings) confirmed(cmd *cobra.Command, yes bool, ensure func(context.Context) (scheduleResult, error)) (scheduleResult, error) {
	var from []int
	s.mayLower = func(days int) bool { return yes || slices.Contains(from, days) }
	for {
		result, err := ensure(cmd.Context())
		lower, asks := errors.AsType[*lowering](err)
		if !asks {
			return result, err
		}
		if err := confirm(cmd, lower.Error()); err != nil {
			return result, err
		}
		from = append(from, lower.from)
	}
}

// ensure makes both schedules as they should be. That of Maintenance comes first: it may have
// to ask, and a relay without it is one that an operator has left so.
func (s *settings) ensure(ctx context.Context, all schedules, attributes func(stored *bool) (bool, error)) (result scheduleResult, err error) {
	relay, _, err := all.describe(ctx, s.taskQueue)
	if err != nil {
		return result, fmt.Errorf("schedule %s: %w", s.taskQueue, err)
	}
	s.installed = relay != nil
	id := maintenanceID(s.taskQueue)
	maintenance, err := all.ensure(ctx, id, s.maintenanceSchedule)
	if err != nil {
		return result, fmt.Errorf("schedule %s: %w", id, err)
	}
	var sets bool
	result, err = all.ensure(ctx, s.taskQueue, s.relaySchedule(func(stored *bool) (_ bool, err error) {
		sets, err = attributes(stored)
		return sets, err
	}))
	if err != nil {
		return result, fmt.Errorf("schedule %s: %w", s.taskQueue, err)
	}
	result.SearchAttributes, result.Maintenance = &sets, &maintenance
	return result, nil
}
