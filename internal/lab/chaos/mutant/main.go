// Command mutant is the worker with one promise broken on purpose, named by
// OUTBOX_MUTANT. It exists so that tests can show that the chaos harness sees it:
//
//   - fencing: leases are short and never renewed, nothing stops an attempt that
//     has lost its own.
//   - settle-first: events are settled before they are published.
//   - ordering: the events of a page are published in the opposite order.
//   - forget-replays: replayed events are settled without being published.
//   - replay-ordering: the replayed events of a page are published in the opposite
//     order.
//   - overtaking: events are published though an earlier one of their key is a dead
//     letter, which comes after them when it is redriven.
//   - retention: expired partitions are dropped with their pending and dead events.
//   - twice: every page is sent twice, and only the second time counts.
//   - by-number: acknowledged events are settled by their number alone, whichever history
//     of the database it is from.
//   - hoarding: no partition is ever dropped.
//   - outliving: shares are never renewed, and the worker goes on with them after their leases
//     have ended.
//   - stealing: the worker takes all shares, also those that another worker holds.
//
// The mutations none and sharing break nothing. Those from sharing on hold shares.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/goccy/go-yaml"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/worker"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/workflows"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mutant: "+err.Error())
		stop()
		os.Exit(1) //nolint:gocritic // nothing is left to be deferred
	}
}

func run(ctx context.Context) error {
	m, known := mutations[os.Getenv("OUTBOX_MUTANT")]
	if !known {
		return fmt.Errorf("OUTBOX_MUTANT=%q is no mutation", os.Getenv("OUTBOX_MUTANT"))
	}
	store, err := postgres.Open(ctx, postgres.Config{
		URL: os.Getenv("DATABASE_URL"), ClaimLease: workflows.ClaimLease, Lease: m.lease, ShareLease: m.shareLease,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	publisher, policies, err := newPublisher(ctx)
	if err != nil {
		return err
	}
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return err
	}
	temporal, err := client.DialContext(ctx, options)
	if err != nil {
		return err
	}
	defer temporal.Close()
	if err := store.EnsureLanes(ctx, publisher.Topics()); err != nil {
		return err
	}
	acts, err := activities.New(activities.Config{
		Store: m.store(store), Publisher: m.publisher(store, publisher), Lease: m.lease, BatchFor: workflows.BatchFor,
		Topics: policies, Sharing: m.holds(store, publisher),
	})
	if err != nil {
		return err
	}
	carrying, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	var carried sync.WaitGroup
	carried.Go(func() { activities.Carry(carrying, acts) })
	defer carried.Wait()
	defer giveBack()
	w := worker.New(temporal, os.Getenv("OUTBOX_TASK_QUEUE"), worker.Options{WorkerStopTimeout: 10 * time.Second})
	workflows.Register(w, acts)
	if err := w.Start(); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "msg=publishing") // what the real one logs
	<-ctx.Done()
	w.Stop()
	return nil
}

func newPublisher(ctx context.Context) (*publish.Publisher, map[string]activities.TopicPolicy, error) {
	text, err := os.ReadFile(os.Getenv("OUTBOX_CONFIG")) //nolint:gosec // naming a file is what it is for
	if err != nil {
		return nil, nil, err
	}
	var file struct {
		Topics map[string]struct {
			SNS  string `yaml:"sns"`
			SQS  string `yaml:"sqs"`
			Fair bool   `yaml:"fair"`

			OnPoison activities.OnPoison `yaml:"onPoison"`
		} `yaml:"topics"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, nil, err
	}
	policies := map[string]activities.TopicPolicy{}
	cfg := publish.Config{Topics: map[string]publish.Destination{}}
	for name, t := range file.Topics {
		cfg.Topics[name] = publish.Destination{SNS: t.SNS, SQS: t.SQS, Fair: t.Fair}
		policies[name] = activities.TopicPolicy{OnPoison: t.OnPoison}
	}
	if cfg.AWS, err = awsconfig.LoadDefaultConfig(ctx); err != nil {
		return nil, nil, err
	}
	p, err := publish.New(cfg)
	return p, policies, err
}
