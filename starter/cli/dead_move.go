package cli

import (
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/relay"
)

func redriveCommand() *cobra.Command {
	o := &operation{kind: relay.Redrive}
	cmd := &cobra.Command{
		Use:   "redrive TOPIC",
		Short: "Publish dead letters again",
		Long: `Makes dead letters pending again, and the relay publishes them. A redriven event is
published before later events of its key that still wait. The events that were blocked
behind it follow in order. An event that is refused again becomes a dead letter again.
Where onPoison is block, so does an event whose key still has an earlier dead letter.

A workflow does this. It continues if this command ends, and the same command follows it
again. When all dead letters are pending again, the command waits until each event is
published or dead again, at most as long as --wait says. It then prints both numbers and
the reasons. The exit status is 1 if events became dead letters again, or if the command
could not confirm that all were published. With --no-wait the command ends as soon as the
events are pending again.`,
		Example: `  starter dead redrive orders --all --dry-run
  starter dead redrive orders --code AccessDenied --reason "policy repaired" --yes
  starter dead redrive orders --key customer-4711 --reason "fixed by hand"`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.outOfOrder, "out-of-order", false, "redrive events even if earlier events of their key stay dead letters")
	return cmd
}

func discardCommand() *cobra.Command {
	o := &operation{kind: relay.Discard}
	cmd := &cobra.Command{
		Use:   "discard TOPIC",
		Short: "Drop dead letters for good",
		Long: `Drops dead letters: they will never be published. Their events stay in the outbox until
retention deletes them. The table outbox.discarded records each one, with operator and
reason. Events that were blocked behind a discarded event stay dead letters until you
redrive them.

A discard cannot be undone. To publish such an event after all, write it again.`,
		Example: `  starter dead discard orders --event-id 0198f2a1-7c3b-7def-8123-456789abcdef --reason "test data"`,
		Args:    arguments(cobra.ExactArgs(1)), ValidArgsFunction: topicArgument,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.flags(cmd)
	return cmd
}
