package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/relay"
)

// waitForOutcome is how long a command waits, unless told otherwise, for the outcome of the
// events that it has made pending again.
const waitForOutcome = time.Minute

// outcome has the flags that say how long to wait after the events are pending again.
type outcome struct {
	wait time.Duration
	none bool
}

func (o *outcome) flags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&o.wait, "wait", waitForOutcome, "how long to wait for the outcome after all events are pending again")
	cmd.Flags().BoolVar(&o.none, "no-wait", false, "end as soon as all events are pending again")
}

func (o *outcome) check(cmd *cobra.Command) error {
	switch {
	case o.none && cmd.Flags().Changed("wait"):
		return misuse("give --wait or --no-wait, not both")
	case !o.none && o.wait <= 0:
		return misuse("--wait is %s: give a time that is longer than 0, or --no-wait", o.wait)
	}
	return nil
}

// follow waits until each of an operation's events has an outcome, or the time is over. It
// prints changes, and keeps the last state in r. It returns an error unless all events were
// published.
func (o *outcome) follow(ctx context.Context, out io.Writer, store *postgres.Store, r *report) error {
	database := outage{what: "the database", say: func(text string) { fmt.Fprintln(out, text) }}
	said := time.Now()
	var last, why string
	for until := time.Now().Add(o.wait); ; {
		began := time.Now()
		d, err := store.Delivered(ctx, r.Operation, r.moved)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("stopped waiting: %d events of %s are pending again, and their outcome is not known yet: see %q and %q",
				r.Done, r.Topic, program.Starter("status"), program.Starter("dead list", r.Topic))
		case err == nil:
			r.Delivered = &d
		case time.Now().After(until):
			return fmt.Errorf("%d events of %s are pending again, and their outcome is not known: %w", r.Done, r.Topic, err)
		}
		if database.seen(err); err == nil {
			if d.Over() || time.Now().After(until) {
				return unconfirmed(r, o.wait)
			}
			if d.Why != "" && d.Why != why {
				why = d.Why
				fmt.Fprintf(out, "%d events are pending: %s\n", d.Pending, why)
			}
			if text := deliveredText(r.Kind, d); text != last && time.Since(said) > 2*time.Second {
				last, said = text, time.Now()
				fmt.Fprintln(out, text)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(relay.LookAgain(time.Since(began)), max(0, time.Until(until))+time.Millisecond)):
		}
	}
}

// unconfirmed is nil if all events of an operation are known to have been published.
func unconfirmed(r *report, waited time.Duration) error {
	d := r.Delivered
	switch {
	case d.Confirmed():
		return nil
	case d.Lacks():
		return fmt.Errorf("the database has lost a part of operation %d, as in a failover: of %d events of %s, it has a record of %d: run the same command again",
			r.Operation, r.moved, r.Topic, d.Moved)
	case d.Dead > 0:
		return fmt.Errorf("%d of %d events of %s became dead letters: see %q", d.Dead, r.Done, r.Topic, program.Starter("dead list", r.Topic))
	case d.Pending > 0:
		return fmt.Errorf("%d of %d events of %s are still pending after %s: the relay continues to publish them: see %q",
			d.Pending, r.Done, r.Topic, waited, program.Starter("status"))
	case len(d.Taken) > 0:
		return fmt.Errorf("not all %d events of %s are known to be published: later operations have moved some of them again: see the operations %d in outbox.operation", r.Done, r.Topic, d.Taken)
	}
	return fmt.Errorf("the outcome of %d of %d events of %s is not known: a worker of an earlier version has moved them or made them dead letters: see %q",
		d.NotKnown, r.Done, r.Topic, program.Starter("dead list", r.Topic))
}

// deliveredText says how many events are published, pending and dead.
func deliveredText(kind string, d relay.Delivered) string {
	text := fmt.Sprintf("%d published, %d pending, %d dead", d.Published, d.Pending, d.Dead)
	if kind == relay.Redrive {
		text += " again"
	}
	if d.NotKnown > 0 {
		text += fmt.Sprintf(", %d not known", d.NotKnown)
	}
	if d.Lacks() {
		text += "; the database has lost a part of the operation"
	}
	if len(d.Taken) > 0 {
		text += fmt.Sprintf("; the operations %d may have moved some of the published events again", d.Taken)
	}
	return text
}

// printDelivered prints the outcome of the events, and why some became dead letters.
func printDelivered(out io.Writer, kind string, d relay.Delivered) {
	fmt.Fprintln(out, deliveredText(kind, d))
	if d.Why != "" {
		fmt.Fprintln(out, "  pending:", d.Why)
	}
	shown := int64(0)
	for _, c := range d.Causes {
		fmt.Fprintf(out, "  dead: %d with the code %s: %s\n", c.Events, c.Code, c.Message)
		shown += c.Events
	}
	if shown < d.Dead {
		fmt.Fprintf(out, "  dead: %d with other codes\n", d.Dead-shown)
	}
}
