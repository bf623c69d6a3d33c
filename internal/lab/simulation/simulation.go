// Package simulation runs the shop of examples/shop for a while, with invented customers,
// on a real database, a real relay and real queues. Then it reconciles the tables: did
// every committed event reach every service, once, in order, and no other event?
//
// It is not part of examples/shop, so that the services there contain nothing that serves
// only the demo, and can be copied.
package simulation

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// Config says how to run the shop. DB and AWS are required.
type Config struct {
	DB  *pgxpool.Pool // on a migrated database, as its owner
	AWS aws.Config    // of the account or emulator that has the queues

	// For is how long customers place orders. Default 30 s.
	For time.Duration
	// Rate is how many orders are placed a second. Default 25.
	Rate float64
	// RollbackShare is the share of transactions that roll back after they have
	// written their event. Default 0.1.
	RollbackShare float64
	// RedeliveryShare is the share of messages that the inventory processes and then
	// does not delete, so that they are delivered again. Default 0.02.
	RedeliveryShare float64
	// Drain is how long everything may take to arrive after the last commit.
	// Default 60 s.
	Drain time.Duration
	// Break, if there is one, takes a destination away after a quarter of For, for a
	// third of it. Then Drain begins when its recovery must have noticed.
	Break *Break

	// Out is where the live view goes: redrawn in place on a terminal, a line
	// every two seconds anywhere else. Default nowhere.
	Out io.Writer
	// UI is the address of Temporal's UI, to be shown while it runs.
	UI string
}

func (c Config) withDefaults() Config {
	if c.For == 0 {
		c.For = 30 * time.Second
	}
	if c.Rate == 0 {
		c.Rate = 25
	}
	if c.RollbackShare == 0 {
		c.RollbackShare = 0.1
	}
	if c.RedeliveryShare == 0 {
		c.RedeliveryShare = 0.02
	}
	if c.Drain == 0 {
		c.Drain = time.Minute
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c
}

// linger is how long consumers go on after everything has arrived, to receive repeats, and
// events that should not arrive.
const linger = 2 * time.Second

// Run runs the shop and reconciles. Its error means that the shop could not be run, or
// was interrupted. The Report says which checks failed.
//
// It can run again on the same database: each run has products and accounts of
// its own. Two at the same time would take each other's messages.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg = cfg.withDefaults()
	s := &shop{cfg: cfg, suffix: strings.ToLower(rand.Text()[:4]), recorder: newRecorder()}
	if err := s.open(ctx); err != nil {
		return nil, err
	}

	if cfg.Break != nil {
		s.outage, s.recorder.apart = newOutage(cfg), brokenTopic
	}

	// Consumers and view go on until told to stop, and end the run if they fail.
	attended, alive := errgroup.WithContext(ctx)
	background, stop := context.WithCancel(alive)
	defer stop()
	problems := &problemLog{}
	for _, c := range s.consumers(problems) {
		attended.Go(func() error { return c.Run(background) })
	}
	attended.Go(func() error {
		s.watch(background)
		return nil
	})
	if s.outage != nil {
		attended.Go(func() error {
			s.outage.watch(background)
			return nil
		})
	}
	err := s.runOrders(alive)
	stop()
	failed := attended.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, errInterrupted
	case failed != nil: // it is why runOrders ended
		return nil, failed
	case err != nil:
		return nil, err
	}
	facts, err := s.facts(ctx)
	if err != nil {
		return nil, err
	}
	facts.Problems = problems.list()
	if s.outage != nil {
		if facts.Outage, err = s.outage.facts(ctx); err != nil {
			return nil, err
		}
	}
	return Reconcile(facts), nil
}

// shop is a run's state.
type shop struct {
	cfg       Config
	suffix    string // in the names of this run's products, accounts and orders
	began     time.Time
	beganInDB time.Time
	recorder  *recorder
	view      view
	outage    *outage // nil if nothing is to be taken away
}

var errInterrupted = errors.New("interrupted")

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errInterrupted
	case <-time.After(d):
		return nil
	}
}
