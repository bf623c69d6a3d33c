package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// operation is a command that does something to many events.
type operation struct {
	selector
	who
	kind      string
	nouns     string // what it is done to
	yes       bool
	dryRun    bool
	detach    bool
	asJSON    bool
	perSecond float64
	taskQueue string
}

// who says who does something and why.
type who struct{ by, reason string }

func (w *who) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.by, "by", whoAmI(), "who does it")
	cmd.Flags().StringVar(&w.reason, "reason", "", "why")
}

// check insists on both, for whoever reads the record.
func (w *who) check() error {
	switch {
	case w.reason == "":
		return misuse("say why, for whoever finds it: --reason is empty")
	case w.by == "":
		return misuse("say who you are: --by is empty")
	}
	return nil
}

func (o *operation) flags(cmd *cobra.Command) {
	o.selector.flags(cmd, o.kind != relay.Replay)
	o.who.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "count, and change nothing")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.detach, "detach", false, "do not wait for the end")
	f.Float64Var(&o.perSecond, "rate", 1000, "events a second at most; 0: no limit")
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
}

// run counts, asks, starts the workflow and follows it. matched says how many events
// are selected, and in words what is to be known before they are moved.
func (o *operation) run(cmd *cobra.Command, topic string,
	matched func(ctx context.Context, s *postgres.Store, chosen relay.Selection) (n int64, remarks string, err error),
) error {
	chosen, err := o.selection()
	if err != nil {
		return err
	}
	if o.perSecond < 0 {
		return misuse("--rate is %g: it cannot be negative", o.perSecond)
	}
	if !o.dryRun {
		if err := o.check(); err != nil {
			return err
		}
	}
	ctx := cmd.Context()
	store, err := openStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	n, remarks, err := matched(ctx, store, chosen)
	if err != nil {
		return badTopic(err)
	}
	r := report{Kind: o.kind, Topic: topic, Matched: n, DryRun: o.dryRun}
	if n == 0 {
		return nothing("no %s of %s match", o.nouns, topic)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d %s of %s match%s\n", n, o.nouns, topic, remarks)
	if o.dryRun {
		return o.print(cmd.OutOrStdout(), r)
	}
	c, err := dial(ctx) // before anything is put on record
	if err != nil {
		return err
	}
	defer c.Close()
	if !o.yes {
		if err := confirm(cmd, fmt.Sprintf("%s %d %s of %s?", o.kind, n, o.nouns, topic)); err != nil {
			return err
		}
	}
	u, run, err := o.start(ctx, store, c, topic, chosen, &r)
	if err != nil {
		return err
	}
	r.Operation, r.WorkflowID = u.ID, u.WorkflowID
	fmt.Fprintf(cmd.ErrOrStderr(), "workflow %s does it%s\n", link(u.WorkflowID), map[bool]string{true: ", and did already"}[r.Joined])
	if !o.detach {
		if err := follow(ctx, cmd.ErrOrStderr(), store, run, &r); err != nil {
			return err
		}
	}
	return o.print(cmd.OutOrStdout(), r)
}

// start puts the operation on record and starts its workflow, or finds both.
func (o *operation) start(ctx context.Context, store *postgres.Store, c client.Client, topic string, chosen relay.Selection, r *report,
) (u relay.UnderWay, run client.WorkflowRun, err error) {
	id, joined, err := store.BeginOperation(ctx, relay.Operation{
		Kind: o.kind, Topic: topic, By: o.by, Reason: o.reason, Selection: chosen, Matched: r.Matched,
		WorkflowID: workflows.OperationIDPrefix(o.taskQueue, o.kind, topic),
	})
	if err != nil {
		return u, nil, err
	}
	r.Joined = joined
	if u, err = store.Operation(ctx, id); err != nil {
		return u, nil, err
	}
	// An operation whose command died before this line has no workflow yet: whoever
	// gives the command again starts it.
	run, err = c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: u.WorkflowID, TaskQueue: o.taskQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            fmt.Sprintf("%s %s, by %s: %s", o.kind, topic, u.By, u.Reason),
		Memo:                     map[string]any{"operation": u.ID, "kind": u.Kind, "topic": topic, "by": u.By, "reason": u.Reason, "at": u.At},
	}, workflows.Operation, workflows.OperationInput{
		Operation: id, Kind: o.kind, Topic: topic, Matched: u.Matched, PerSecond: o.perSecond,
	})
	if err != nil {
		return u, nil, fmt.Errorf("start workflow %s: %w: give the command again to go on", u.WorkflowID, err)
	}
	return u, run, nil
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
	_, err := fmt.Fprintf(out, "%s: %d %s of %s\n", r.Outcome, r.Done, o.nouns, r.Topic)
	return err
}

// confirm asks on a terminal, and insists on --yes elsewhere.
func confirm(cmd *cobra.Command, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return misuse("nobody can be asked here: add --yes, or look first with --dry-run")
	}
	fmt.Fprint(cmd.ErrOrStderr(), question, " [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("not confirmed: nothing was changed")
	}
	return nil
}

// link is a workflow's address in the UI, where that is known.
func link(workflowID string) string {
	ui := os.Getenv("TEMPORAL_UI_URL")
	if ui == "" {
		return workflowID
	}
	return workflowID + " (" + strings.TrimSuffix(ui, "/") + "/namespaces/" + namespace() + "/workflows/" + escape(workflowID) + ")"
}

// instantText is a time as people compare it with a clock.
func instantText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
