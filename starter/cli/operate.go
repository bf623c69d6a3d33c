package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// operation is a command that does something to many events.
type operation struct {
	selector
	who
	kind      string
	all       bool
	yes       bool
	dryRun    bool
	detach    bool
	asJSON    bool
	perSecond float64
	taskQueue string
	outcome   outcome
	// outOfOrder is for a redrive only.
	outOfOrder bool
}

// who is the operator and the reason, for the record.
type who struct{ by, reason string }

func (w *who) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.by, "by", whoAmI(), "your name, for the record of the operation")
	cmd.Flags().StringVar(&w.reason, "reason", "", "your reason, for the record of the operation")
}

// check requires both, for the record of the operation.
func (w *who) check() error {
	switch {
	case w.reason == "":
		return misuse("--reason is empty: give a reason for the record of the operation")
	case w.by == "":
		return misuse("--by is empty: give your name for the record of the operation")
	}
	return nil
}

func (o *operation) flags(cmd *cobra.Command) {
	o.selector.flags(cmd, o.kind != relay.Replay)
	o.who.flags(cmd)
	if relay.Pends(o.kind) {
		o.outcome.flags(cmd)
	}
	f := cmd.Flags()
	f.BoolVar(&o.all, "all", false, "all "+relay.Nouns(o.kind)+" of the topic")
	f.BoolVar(&o.dryRun, "dry-run", false, "count, and change nothing")
	f.BoolVar(&o.yes, "yes", false, "do not ask for confirmation")
	f.BoolVar(&o.detach, "detach", false, "start the operation and do not wait for its end")
	f.Float64Var(&o.perSecond, "rate", 1000, "most events a second; 0: no limit")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	f.StringVar(&o.taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
}

// report is what an operation prints as JSON.
type report struct {
	Kind       string `json:"kind"`
	Topic      string `json:"topic"`
	Matched    int64  `json:"matched"`
	DryRun     bool   `json:"dryRun,omitempty"`
	Operation  int64  `json:"operation,omitempty"`
	WorkflowID string `json:"workflowId,omitempty"`
	Joined     bool   `json:"joined,omitempty"` // the same was under way already
	Done       int64  `json:"done"`
	Outcome    string `json:"outcome,omitempty"`
	// Delivered is the outcome of the events that were made pending, if the command waited.
	Delivered *relay.Delivered `json:"delivered,omitempty"`
	// moved is how many events the workflow says it has moved. A failover may lose some from
	// the record.
	moved int64
}

// run counts, asks, starts the workflow and follows it; or follows it, if the same is
// under way.
func (o *operation) run(cmd *cobra.Command, topic string) error {
	chosen, err := o.selection(cmd)
	switch {
	case err != nil:
		return err
	case o.empty() != o.all:
		return misuse("to %s events, give either filters such as --key or --event-id, or --all", o.kind)
	case !(o.perSecond >= 0) || math.IsInf(o.perSecond, 0): // NaN is not less than 0
		return misuse("--rate is %g: give a number that is not negative", o.perSecond)
	}
	if relay.Pends(o.kind) {
		if err := o.outcome.check(cmd); err != nil {
			return err
		}
	}
	if err := checkTaskQueue(o.taskQueue); err != nil {
		return err
	}
	ctx := cmd.Context()
	if !o.dryRun {
		if err := o.check(); err != nil {
			return err
		}
	}
	store, err := openStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	if o.dryRun {
		n, err := o.count(cmd, store, topic, chosen)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), report{Kind: o.kind, Topic: topic, DryRun: true, Matched: n.Events})
	}
	c, err := dial(ctx) // before anything is put on record
	if err != nil {
		return err
	}
	defer c.Close()
	u, run, joined, err := o.underWay(cmd, store, c, topic, chosen)
	if err == nil && !joined {
		u, run, joined, err = o.begin(cmd, store, c, topic, chosen)
	}
	if err != nil {
		return err
	}
	if joined {
		fmt.Fprintf(cmd.ErrOrStderr(), "this operation is already under way since %s, by %s: %s; its rate does not change\n", instantText(u.At), u.By, u.Reason)
	}
	r := report{Kind: o.kind, Topic: topic, Matched: u.Matched, Operation: u.ID, WorkflowID: u.WorkflowID, Joined: joined, Done: u.Done}
	fmt.Fprintf(cmd.ErrOrStderr(), "carried out by workflow %s\n", link(u.WorkflowID))
	if o.detach {
		return o.print(cmd.OutOrStdout(), r)
	}
	if err := follow(ctx, cmd.ErrOrStderr(), store, c, run, &r); err != nil {
		return err
	}
	if relay.Pends(o.kind) && !o.outcome.none {
		err = o.outcome.follow(ctx, cmd.ErrOrStderr(), store, &r)
	}
	return errors.Join(o.print(cmd.OutOrStdout(), r), err)
}

func (o *operation) count(cmd *cobra.Command, store *postgres.Store, topic string, chosen relay.Selection) (relay.Counted, error) {
	n, err := relay.CountSelected(cmd.Context(), store, o.kind, topic, chosen, o.outOfOrder, looking(cmd.ErrOrStderr()))
	var none *relay.NothingError
	var overtaking *relay.OvertakingError
	switch {
	case errors.As(err, &none):
		return n, nothing("%w", err)
	case errors.As(err, &overtaking):
		return n, misuse("%w. Select that event too, for example by --key, or give --out-of-order if the order does not matter", err)
	case err != nil:
		return n, badTopic(err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d %s of %s match%s\n", n.Events, relay.Nouns(o.kind), topic, n.Remarks)
	return n, nil
}

func (o *operation) print(out io.Writer, r report) error {
	switch {
	case o.asJSON:
		return json.NewEncoder(out).Encode(r)
	case r.DryRun:
		_, err := fmt.Fprintln(out, "dry run: nothing was changed")
		return err
	case o.detach:
		_, err := fmt.Fprintf(out, "operation %d is under way\n", r.Operation)
		return err
	}
	text := fmt.Sprintf("%s: %d %s of %s", r.Outcome, r.Done, relay.Nouns(o.kind), r.Topic)
	if relay.Pends(o.kind) {
		text += " pending again"
	}
	if _, err := fmt.Fprintln(out, text); err != nil {
		return err
	}
	if r.Delivered != nil {
		printDelivered(out, r.Kind, *r.Delivered)
	}
	return nil
}
