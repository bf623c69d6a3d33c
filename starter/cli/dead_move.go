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
		Long: `Makes dead letters pending again, and the relay publishes them. An event comes before
later events of its key that still wait, and the events that were blocked behind it
follow in order. An event that is refused again is a dead letter again. Where onPoison is block, an event that has an earlier
dead letter of its key dies again.

Runs as a workflow that goes on if this command ends; the same command given again
follows it. When all dead letters are pending again, the command waits, for --wait, until
each is published or dead again, and says how many are and why. Its status is 1 if some
died again, or if it is not known of all that they were published. With --no-wait it
ends when they are pending again.`,
		Example: `  starter dead redrive orders --all --dry-run
  starter dead redrive orders --code AccessDenied --reason "policy repaired" --yes
  starter dead redrive orders --key customer-4711 --reason "fixed by hand"`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.outOfOrder, "out-of-order", false, "redrive events though earlier ones of their key stay dead")
	return cmd
}

func discardCommand() *cobra.Command {
	o := &operation{kind: relay.Discard}
	cmd := &cobra.Command{
		Use:   "discard TOPIC",
		Short: "Drop dead letters for good",
		Long: `Drops dead letters: they will never be published. Their events stay in the outbox until
retention takes them, and outbox.discarded says who dropped which, and why. Events
that were blocked behind a discarded one stay dead letters until they are redriven.

It cannot be undone. To publish such an event after all, write it again.`,
		Example: `  starter dead discard orders --event-id 0198f2a1-7c3b-7def-8123-456789abcdef --reason "test data"`,
		Args:    arguments(cobra.ExactArgs(1)), ValidArgsFunction: topicArgument,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.flags(cmd)
	return cmd
}
