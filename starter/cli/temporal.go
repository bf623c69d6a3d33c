package cli

import (
	"cmp"
	"context"
	"fmt"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"

	"github.com/temporal-outbox/relay/workflows"
)

// checkTaskQueue returns invalid usage for a name of a task queue that Temporal refuses.
func checkTaskQueue(name string) error {
	if err := workflows.CheckTaskQueue(name); err != nil {
		return misuse("the task queue (--task-queue, OUTBOX_TASK_QUEUE) %w", err)
	}
	return nil
}

func dial(ctx context.Context) (client.Client, error) {
	o, err := clientOptions()
	if err != nil {
		return nil, err
	}
	c, err := client.DialContext(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal at %q: %w: check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or temporal.toml", o.HostPort, err)
	}
	return c, nil
}

func clientOptions() (client.Options, error) {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return o, fmt.Errorf("read Temporal's configuration: %w", err)
	}
	o.Logger = log.NewStructuredLogger(quiet)
	o.Namespace = cmp.Or(o.Namespace, client.DefaultNamespace)
	return o, nil
}
