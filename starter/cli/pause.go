package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
)

func pauseCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "pause TOPIC --reason WHY",
		Short: "Keep a topic's events in the outbox until you resume it",
		Long: `Keeps a topic's events in the outbox until you resume the topic. Services can still
write events, and other topics are not affected. Batches that are under way end within
seconds. A batch that waits for another attempt ends when that attempt is due, within a
minute, and sends nothing. The recovery of the topic, if there is one, does the same.
"starter status" shows the operator and the reason, and outbox.operation keeps them.
It is safe to run again. With another --reason or --by, it replaces the operator and the
reason that "starter status" shows. With the same ones, it changes nothing.`,
		Example: `  starter pause billing --reason "their deploy, until 15:00"`,
	}, "paused", true, (*postgres.Store).Pause)
}

func resumeCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "resume TOPIC",
		Short: "End an operator's pause",
		Long: `Ends a pause that "starter pause" began. Events that have waited are published in order.
This command does not end the recovery of a topic whose destination is broken. A recovery
ends by itself when the destination accepts events again.
It is safe to run again: it then changes nothing.`,
		Example: `  starter resume billing --reason "deployed"`,
	}, "resumed", false, (*postgres.Store).Resume)
}

// operatorCommand makes a command that does something to one topic.
func operatorCommand(cmd *cobra.Command, done string, why bool,
	operate func(*postgres.Store, context.Context, relay.Operation) (bool, error),
) *cobra.Command {
	var w who
	var asJSON bool
	cmd.Args = arguments(cobra.ExactArgs(1))
	cmd.ValidArgsFunction = topicArgument
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if w.reason == "" && !why {
			w.reason = "not given"
		}
		if err := w.check(); err != nil {
			return err
		}
		store, err := openStore(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		changed, err := operate(store, cmd.Context(), relay.Operation{Topic: args[0], By: w.by, Reason: w.reason})
		if err != nil {
			return badTopic(err)
		}
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"topic": args[0], "changed": changed})
		}
		if !changed {
			done = "nothing to do: it was " + done + " already"
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], done)
		return err
	}
	w.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// whoAmI is the user of the system, if it is known.
func whoAmI() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return cmp.Or(os.Getenv("USER"), os.Getenv("LOGNAME"))
}
