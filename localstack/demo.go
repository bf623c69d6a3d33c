package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/temporal-outbox/relay/internal/stack"
)

func demoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "run the example shop with a real worker, and check that every event arrived and took effect once",
		Long: `Starts the stack, migrates the database, creates the topics and queues, starts
the worker and its schedule, and runs examples/shop for half a minute with a
live view. At the end, a reconciliation compares the tables of all services.
Exits with status 0 only if each of its checks holds.

If DATABASE_URL, TEMPORAL_ADDRESS or AWS_ENDPOINT_URL is set, the demo uses that
server. The schedule, the tables and the queues of the demo then stay there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	keep, _ := strconv.ParseBool(os.Getenv("KEEP"))
	f := cmd.Flags()
	f.DurationVar(&d.length, "for", 30*time.Second, "how long customers place orders")
	f.Float64Var(&d.rate, "rate", 25, "orders placed a second")
	f.BoolVar(&d.broken, "break", false, "delete a destination for a while, and check that events for the other destinations are not delayed")
	f.BoolVar(&d.keep, "keep", keep, "keep the stack and the worker running at the end, until you press Ctrl-C (also KEEP=1)")
	return cmd
}

type demo struct {
	length time.Duration
	rate   float64
	broken bool
	keep   bool

	dir string // of the programs
	log string // of the worker
}

// run builds the programs while the stack starts.
func (d *demo) run(ctx context.Context) (err error) {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "outbox-demo-"); err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	d.log = filepath.Join(d.dir, "worker.log")
	defer func() { d.cleanUp(err) }()

	ctx, cancel := context.WithCancel(ctx)
	fmt.Println("building worker, starter and shop while the stack starts")
	built := make(chan error, 1)
	program := builder(ctx, root, d.dir)
	defer func() { // it writes into the directory
		cancel()
		for range built {
		}
	}()
	go func() {
		defer close(built)
		built <- build(program)
	}()
	return withStack(ctx, stack.Options{}, func(ctx context.Context, s *stack.Stack) error {
		err := d.inStack(ctx, s, built, filepath.Join(root, "localstack", "outbox.yaml"))
		var why interruption
		if err != nil && errors.As(context.Cause(ctx), &why) {
			return why.status()
		}
		return err
	})
}

// inStack prepares what the worker needs, starts it and lets customers in.
func (d *demo) inStack(ctx context.Context, s *stack.Stack, built <-chan error, config string) error {
	if err := becomeClient(s, "OUTBOX_CONFIG="+config); err != nil {
		return err
	}
	if err := wait(ctx, built); err != nil {
		return err
	}
	prepare, preparing := errgroup.WithContext(ctx)
	prepare.Go(func() error { return runQuietly(preparing, filepath.Join(d.dir, "starter"), "migrate") })
	prepare.Go(func() error { return createTopology(preparing) })
	if err := prepare.Wait(); err != nil {
		return err
	}

	worker, err := startWorker(filepath.Join(d.dir, "worker"), d.log)
	if err != nil {
		return err
	}
	defer worker.stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		<-worker.ended
		cancel(worker.failure())
	}()
	err = d.open(ctx)
	if errors.Is(context.Cause(ctx), errWorkerEnded) { // rather than what came of it
		return context.Cause(ctx)
	}
	if d.keep && ctx.Err() == nil {
		d.stayUp(ctx, s, err)
	}
	return err
}

// open lets customers in.
func (d *demo) open(ctx context.Context) error {
	if err := runQuietly(ctx, filepath.Join(d.dir, "starter"), "schedule"); err != nil {
		return err
	}
	fmt.Println()
	return runShop(ctx, filepath.Join(d.dir, "shop"), d.shopArgs()...)
}

func (d *demo) shopArgs() []string {
	args := []string{"--for", d.length.String(), "--rate", strconv.FormatFloat(d.rate, 'g', -1, 64)}
	if d.broken {
		args = append(args, "--break")
	}
	return args
}

// stayUp keeps everything as it is until Ctrl-C, so that the user can look for the cause of
// a failed check.
func (d *demo) stayUp(ctx context.Context, s *stack.Stack, outcome error) {
	if outcome != nil {
		fmt.Println("\nThe demo failed. The stack and the worker are still running, so that you can look for the cause.")
	} else {
		fmt.Println("\nThe stack and the worker are still running, so that you can look around.")
	}
	for _, kv := range s.Env() {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Printf("  export %s=%s\n", name, shellQuote(value))
	}
	fmt.Printf("  export OUTBOX_CONFIG=%s\n", shellQuote(os.Getenv("OUTBOX_CONFIG")))
	fmt.Printf("The worker's log is %s. Ctrl-C stops everything and removes its data.\n", d.log)
	<-ctx.Done()
}

// cleanUp removes everything. After a failure it keeps the worker's log.
func (d *demo) cleanUp(err error) {
	var status exitStatus
	interrupted := errors.As(err, &status) && status > 128
	text, readErr := os.ReadFile(d.log)
	if err == nil || interrupted || readErr != nil || len(text) == 0 {
		_ = os.RemoveAll(d.dir)
		return
	}
	for _, program := range programs {
		_ = os.Remove(filepath.Join(d.dir, program))
	}
	if !errors.Is(err, errWorkerEnded) { // which shows it
		fmt.Fprintf(os.Stderr, "\nthe end of the worker's log %s:\n%s\n", d.log, lastLines(string(text)))
	}
}
