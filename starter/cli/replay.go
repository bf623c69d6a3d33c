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
		Long: `Makes events pending again, and the relay publishes them a second time, each key in
order. Consumers get the same event_id. A consumer that still has this event_id in its
record of received events ignores the repetition. On FIFO destinations the events get a
new deduplication id, so that AWS delivers them.

Events that are still pending, dead or discarded are not replayed, nor are events that
retention has deleted. Events that are published while the replay runs may be replayed.
The outbox keeps no record of publication. So an event that never became pending, because
the trigger of outbox.event did not fire, is published for the first time. Select events
by key, type, id or time, or give --all.

A workflow does this. It continues if this command ends. While it runs, the same command
follows it; after it has ended, the same command replays the events again. When all
events are pending again, the command waits until each is published or dead, at most as
long as --wait says. It then prints both numbers and the reasons. The exit status is 1 if
events became dead letters, or if the command could not confirm that all were published.
With --no-wait the command ends as soon as the events are pending again.`,
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
