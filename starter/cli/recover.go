package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// recovering is a command for a topic's recovery.
type recovering struct {
	who
	now, park, yes, dryRun, asJSON bool
	wait                           time.Duration
	taskQueue                      string
}

func recoverCommand() *cobra.Command {
	var o recovering
	cmd := &cobra.Command{
		Use:   "recover TOPIC --now|--park",
		Short: "Retry a broken topic at once, or make its failing events dead letters",
		Long: `A topic whose destination is broken has a recovery: a workflow that tries to publish at
least once a minute. With --now it tries at once. Use it after you have repaired the
destination.

--park gives up on events that are pending in the recovery's batch when you confirm. The
batch has some or all lanes of the topic. The recovery sends each of these events once
more, and those that the destination refuses become dead letters, which you can redrive
later. Events that are written later and events of other lanes stay pending. They are
tried next; if they are refused too, a new recovery begins. The command counts the
events first. With --dry-run it only counts.`,
		Example: `  starter recover billing --now --reason "policy repaired"
  starter recover billing --park --dry-run
  starter recover billing --park --reason "their bug, redrive tomorrow"`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.now, "now", false, "try again at once")
	f.BoolVar(&o.park, "park", false, "make the events that are refused dead letters, and continue")
	f.BoolVar(&o.dryRun, "dry-run", false, "with --park: count, and change nothing")
	f.BoolVar(&o.yes, "yes", false, "with --park: do not ask for confirmation")
	f.DurationVar(&o.wait, "wait", 30*time.Second, "how long to wait for the workflow's answer")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	f.StringVar(&o.taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
	o.flags(cmd)
	return cmd
}

// recovered is the result of the command.
type recovered struct {
	Topic      string `json:"topic"`
	WorkflowID string `json:"workflowId"`
	Operation  int64  `json:"operation,omitempty"` // under which it is on record
	Joined     bool   `json:"joined,omitempty"`    // the same was asked already
	DryRun     bool   `json:"dryRun,omitempty"`
	Outcome    string `json:"outcome"`
	// Matched is how many events were pending in the recovery's batch before it was
	// parked, and Pending how many the topic has at the end. Of --park only.
	Matched   *int64 `json:"matched,omitempty"`
	Published int    `json:"published,omitempty"`
	Dead      int    `json:"dead,omitempty"`
	Pending   *int64 `json:"pending,omitempty"`
}

func (o *recovering) run(cmd *cobra.Command, topic string) error {
	switch {
	case o.now == o.park:
		return misuse("give --now or --park")
	case o.now && o.dryRun:
		return misuse("--dry-run is only for --park: it counts the events; --now changes no event")
	case !o.dryRun:
		if err := o.check(); err != nil {
			return err
		}
	}
	if err := checkTaskQueue(o.taskQueue); err != nil {
		return err
	}
	ctx := cmd.Context()
	store, err := openStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Known(ctx, topic); err != nil {
		return badTopic(err)
	}
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := findRecovery(ctx, c, o.taskQueue, topic)
	if err != nil {
		return err
	}
	r := recovered{Topic: topic, WorkflowID: found.id}
	if o.now {
		err = o.tryNow(cmd, store, c, found, &r)
	} else {
		err = o.giveUp(cmd, store, c, found, &r)
	}
	switch {
	case err != nil:
		return err
	case o.asJSON:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	case o.dryRun:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "dry run: nothing was changed")
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", r.Topic, r.Outcome)
	}
	return err
}

// ask records the request before it is sent to the recovery.
func (o *recovering) ask(cmd *cobra.Command, store *postgres.Store, kind string, found recoveryFound, r *recovered) (err error) {
	record := relay.Operation{
		Kind: kind, Topic: r.Topic, By: o.by, Reason: o.reason, WorkflowID: r.WorkflowID,
		Selection: relay.Selection{Recovery: found.firstRunID},
	}
	if r.Matched != nil {
		record.Matched = *r.Matched
	}
	r.Operation, r.Joined, err = store.RecordRecoveryRequest(cmd.Context(), record)
	if r.Joined {
		if u, err := store.Operation(cmd.Context(), r.Operation); err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "already requested at %s, by %s: %s\n", instantText(u.At), u.By, u.Reason)
		}
	}
	return err
}

// answered ends the record. A recovery that was parked has ended the record itself, or will
// end it, with the same result. If the result is not known, the record stays open.
func (o *recovering) answered(ctx context.Context, store *postgres.Store, r *recovered, err error) error {
	outcome := r.Outcome
	var late *unanswered
	switch {
	case errors.As(err, &late):
		return fmt.Errorf("%s: %w: it may still be done; operation %d in outbox.operation then shows it", r.WorkflowID, err, r.Operation)
	case err != nil:
		outcome = err.Error()
		err = fmt.Errorf("%s: %w", r.WorkflowID, err)
	}
	return errors.Join(err, store.EndOperation(context.WithoutCancel(ctx), r.Operation, outcome, int64(r.Dead)))
}

// unanswered is an error after which the result of the request is not known.
type unanswered struct{ err error }

func (e *unanswered) Error() string { return "no answer: " + e.err.Error() }
func (e *unanswered) Unwrap() error { return e.err }
