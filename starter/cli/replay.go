package cli

import (
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/relay"
)

func replayCommand() *cobra.Command {
	o := &operation{kind: relay.Replay}
	cmd := &cobra.Command{
		Use:   "replay TOPIC",
		Short: "Publish events again",
		Long: `Makes events pending again, and the relay publishes them a second time, each
key in order. Consumers get the same event_id: one that deduplicates by it, as it
should, takes no notice unless it has forgotten. On FIFO destinations the
deduplication id is a new one, so that AWS delivers them.

Events that are still pending, dead or discarded are left alone, and so are
events that retention has taken. Events that are published while it runs may be among
them. The outbox keeps
no record of publication, so an event that never became pending, because the trigger of
outbox.event did not fire, is published for the first time. Select by key, type, id or
time, or say --all.

Runs as a workflow that goes on if this command ends; the same command given again
while it does follows it. Given again later, it replays again. When all events are pending
again, the command waits, for --wait, until each is published or dead, and says how many
are and why. Its status is 1 if some died, or if it is not known of all that they were
published. With --no-wait it ends when they are pending again.`,
		Example: `  starter replay orders --since 2026-01-31T15:00:00Z --until 2026-01-31T16:00:00Z --dry-run
  starter replay orders --key customer-4711 --reason "billing lost its database" --yes
  starter replay orders --type OrderPlaced --since 2h --rate 200 --reason "new consumer"`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.flags(cmd)
	return cmd
}
