// Command shop runs the usual example of the outbox pattern: an order service that must
// tell other services of each committed change, and of no other. Read and copy the
// packages beside it: order writes events; queue, inventory, billing and ledger consume
// them. This command lets invented customers use them for a while, and then compares the
// tables of all services.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"golang.org/x/term"

	"github.com/temporal-outbox/relay/internal/lab/simulation"
	"github.com/temporal-outbox/relay/internal/telemetry"
	"github.com/temporal-outbox/relay/localstack/topology"
	"github.com/temporal-outbox/relay/workflows"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		stop()
		os.Exit(1) //nolint:gocritic // nothing is left to be deferred
	}
}

// options are the command's flags.
type options struct {
	length, drain  time.Duration
	rate           float64
	create, broken bool
}

func root() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "shop",
		Short: "Run the example shop, and check that every event arrived and took effect once",
		Long: `Places orders, lets the services consume their events, and then compares the tables
of all services. Exits with status 0 only if every check holds.

  DATABASE_URL                 PostgreSQL database that has the outbox (required)
  TEMPORAL_UI_URL              shown while it runs, if set
  OTEL_EXPORTER_OTLP_ENDPOINT  where to send traces, if set

AWS's configuration comes from the SDK's default chain. A worker must be running
that publishes the topics orders and ledger as localstack/outbox.yaml says.

With --break, the command deletes the ledger's SNS topic and creates it again after a
third of the time. This needs an emulator of AWS, and access to the worker's Temporal:
temporal.toml or TEMPORAL_ADDRESS, and OUTBOX_TASK_QUEUE.`,
		Version:       telemetry.ReadBuild().String(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.DurationVar(&o.length, "for", 30*time.Second, "how long customers place orders")
	f.Float64Var(&o.rate, "rate", 25, "orders placed a second")
	f.DurationVar(&o.drain, "drain", time.Minute, "how long to wait for the last events")
	f.BoolVar(&o.broken, "break", false, "delete the ledger's SNS topic for a while, on an emulator")
	f.BoolVar(&o.create, "create", false, "first create the missing topics and queues of localstack/topology")
	return cmd
}

// errUnbalanced is the verdict; the table has said why.
var errUnbalanced = errors.New("a check failed: see the lines marked ✗")

// shortest is what a run needs to be for something to be written while the
// destination is away.
const shortest = 10 * time.Second

func (o options) validate(cfg aws.Config) error {
	switch {
	case o.length <= 0 || o.drain <= 0 || o.rate <= 0:
		return errors.New("--for, --drain and --rate must be positive")
	case o.broken && o.length < shortest:
		return fmt.Errorf("--break needs --for %s or more", shortest)
	case o.broken && cfg.BaseEndpoint == nil:
		return errors.New("--break deletes an SNS topic: set AWS_ENDPOINT_URL to an emulator, it is not done on AWS")
	}
	return nil
}

func dial(ctx context.Context) (client.Client, error) {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, fmt.Errorf("read Temporal's configuration: %w", err)
	}
	o.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler)) // it would tear the view apart
	c, err := client.DialContext(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal at %q: %w", o.HostPort, err)
	}
	return c, nil
}

func run(ctx context.Context, o options) error {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return errors.New("DATABASE_URL is not set: give it the PostgreSQL database that has the outbox, as postgres://user:password@host/name")
	}
	db, err := pgxpool.New(ctx, url)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer db.Close()
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("read AWS's configuration: %w", err)
	}
	if err := o.validate(cfg); err != nil {
		return err
	}
	if o.create {
		if _, err := topology.Local().Apply(ctx, cfg); err != nil {
			return fmt.Errorf("create topics and queues: %w", err)
		}
	}
	simulated := simulation.Config{
		DB: db, AWS: cfg, For: o.length, Rate: o.rate, Drain: o.drain, Out: os.Stdout, UI: os.Getenv("TEMPORAL_UI_URL"),
	}
	if o.broken {
		c, err := dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		simulated.Break = &simulation.Break{
			Temporal: c, TaskQueue: cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue),
		}
	}
	traces, err := telemetry.StartTraces(ctx, "shop", slog.New(slog.DiscardHandler)) // it would tear the view apart
	if err != nil {
		return err
	}
	if traces != nil {
		defer traces.Stop()
		otel.SetTracerProvider(traces.Provider())
	}
	report, err := simulation.Run(ctx, simulated)
	var missing *types.QueueDoesNotExist
	if errors.As(err, &missing) {
		return fmt.Errorf("%w: create the topics and queues that localstack/topology describes, or run with --create", err)
	}
	if err != nil {
		return err
	}
	fmt.Println()
	report.Print(os.Stdout, term.IsTerminal(int(os.Stdout.Fd())))
	if !report.OK() {
		return errUnbalanced
	}
	return nil
}
