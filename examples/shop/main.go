// Command shop is the case that the outbox pattern is taught with: an order
// service whose changes other services must hear of, all of them and no others.
// The packages beside it are meant to be read and copied: order writes events,
// queue, inventory, billing and ledger consume them. This command lets customers
// use them for a while and then checks that everything adds up.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/temporal-outbox/relay/examples/shop/simulation"
	"github.com/temporal-outbox/relay/localstack/topology"
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
	length, drain time.Duration
	rate          float64
	create        bool
}

func root() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "shop",
		Short: "Run the example shop and check that everything adds up",
		Long: `Places orders, lets the services consume their events, and reconciles. Ends with
status 0 only if every check holds.

  DATABASE_URL     PostgreSQL database that has the outbox (required)
  TEMPORAL_UI_URL  shown while it runs, if set

AWS's configuration comes from the SDK's default chain. A worker must be running
that publishes the topics orders and ledger as localstack/outbox.yaml says.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.DurationVar(&o.length, "for", 30*time.Second, "how long customers come")
	f.Float64Var(&o.rate, "rate", 25, "orders placed a second")
	f.DurationVar(&o.drain, "drain", time.Minute, "how long the last events may take to arrive")
	f.BoolVar(&o.create, "create", false, "first create the topics and queues of localstack/topology where they are missing")
	return cmd
}

// errUnbalanced is the verdict; the table has said why.
var errUnbalanced = errors.New("something does not add up: see the lines marked ✗")

func run(ctx context.Context, o options) error {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return errors.New("DATABASE_URL is not set: give it the PostgreSQL database that has the outbox, as postgres://user:password@host/name")
	}
	if o.length <= 0 || o.drain <= 0 || o.rate <= 0 {
		return errors.New("--for, --drain and --rate must be positive")
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
	if o.create {
		if _, err := topology.Local().Apply(ctx, cfg); err != nil {
			return fmt.Errorf("create topics and queues: %w", err)
		}
	}
	report, err := simulation.Run(ctx, simulation.Config{
		DB: db, AWS: cfg, For: o.length, Rate: o.rate, Drain: o.drain, Out: os.Stdout, UI: os.Getenv("TEMPORAL_UI_URL"),
	})
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
