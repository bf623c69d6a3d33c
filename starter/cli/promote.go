package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

// quiet drops what the SDK logs: errors reach the user as such.
var quiet = slog.New(slog.DiscardHandler)

func promoteCommand() *cobra.Command {
	var deployment, build string
	var wait time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Make a worker version the current one of its deployment",
		Long: `Makes a worker version the current one of its Worker Deployment. The relay then uses
this version, also for runs that are under way. You can stop the workers of other
versions at once. A versioned worker gets no work until a version is current.

The command waits until the first worker of the version polls. It is safe to run again:
it then changes nothing.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if deployment == "" || build == "" {
				return misuse("the version is not given: use --deployment and --build-id, or TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID")
			}
			c, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			if err := promote(ctx, c, deployment, build); err != nil {
				return fmt.Errorf("promote %s of %s: %w", build, deployment, err)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(map[string]string{"deployment": deployment, "current": build})
			}
			_, err = fmt.Fprintf(out, "version %s of deployment %s is current\n", build, deployment)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&deployment, "deployment", os.Getenv("TEMPORAL_DEPLOYMENT_NAME"), "name of the deployment")
	f.StringVar(&build, "build-id", os.Getenv("TEMPORAL_WORKER_BUILD_ID"), "build id of the version")
	f.DurationVar(&wait, "wait", 30*time.Second, "how long to wait for a worker of that version")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// promote tries until a worker of the version has polled, or ctx ends.
func promote(ctx context.Context, c client.Client, deployment, build string) error {
	for {
		_, err := c.WorkerDeploymentClient().GetHandle(deployment).
			SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build})
		var notFound *serviceerror.NotFound
		var precondition *serviceerror.FailedPrecondition
		if err == nil || !errors.As(err, &notFound) && !errors.As(err, &precondition) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no worker of that version polls: start one with TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
