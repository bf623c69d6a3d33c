package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/localstack/topology"
)

// An outage deletes the ledger's SNS topic, because only the ledger uses that destination.
// Inventory and billing share one: SNS filters for them, after the relay has published.
const (
	brokenTopic       = order.TopicLedger
	brokenDestination = "ledger-events.fifo"
)

// Break has the access to Temporal that an outage needs.
type Break struct {
	Temporal  client.Client // of the relay's namespace; required
	TaskQueue string        // of the relay; required
}

const (
	// lookEvery is how often Temporal and the database are asked during an outage.
	lookEvery = 250 * time.Millisecond
	// lull is the least time before the recovery's next attempt at which the destination may
	// be created again.
	lull = 1500 * time.Millisecond
	// lullLimit is the longest wait for such a moment.
	lullLimit = 10 * time.Second
	// longestBackoff is how late a recovery may notice that its destination is back.
	longestBackoff = time.Minute
)

// outage deletes the destination for a while, and watches the recovery.
type outage struct {
	Break
	aws    aws.Config
	db     *pgxpool.Pool
	length time.Duration // of the whole run
	began  time.Time     // the run

	mu          sync.Mutex
	from, until time.Time // of the destination's absence
	seen        glimpse   // of the recovery
	paused      map[string]bool
}

func newOutage(cfg Config) *outage {
	return &outage{
		Break: *cfg.Break, aws: cfg.AWS, db: cfg.DB, length: cfg.For,
		began: time.Now(), paused: map[string]bool{},
	}
}

// after is when the destination goes, lasts how long it stays away.
func (o *outage) after() time.Duration { return o.length / 4 }
func (o *outage) lasts() time.Duration { return o.length / 3 }

// run deletes the destination and puts it back, even when it is interrupted.
func (o *outage) run(ctx context.Context) (err error) {
	here, err := topology.Local().Apply(ctx, o.aws)
	if err != nil {
		return fmt.Errorf("find %s: %w", brokenDestination, err)
	}
	arn := here.TopicARNs[brokenDestination]
	if err := sleep(ctx, time.Until(o.began.Add(o.after()))); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, o.restore(ctx, arn))
	}()
	o.note(func() { o.from = time.Now() })
	if _, err := sns.NewFromConfig(o.aws).DeleteTopic(ctx, &sns.DeleteTopicInput{TopicArn: &arn}); err != nil {
		return fmt.Errorf("delete %s: %w", brokenDestination, err)
	}
	if err := sleep(ctx, o.lasts()); err != nil {
		return err
	}
	return o.awaitLull(ctx)
}

func (o *outage) restore(ctx context.Context, arn string) error {
	there, err := topology.Local().Apply(ctx, o.aws)
	if err != nil {
		return fmt.Errorf("put %s back: %w", brokenDestination, err)
	}
	if again := there.TopicARNs[brokenDestination]; again != arn {
		return fmt.Errorf("%s came back as %s and was %s: the relay will not find it", brokenDestination, again, arn)
	}
	o.note(func() { o.until = time.Now() })
	return nil
}

// awaitLull waits until the recovery's next attempt is some time off. A topic exists before
// its subscription does. If the relay published in between, SNS would accept the events
// and deliver them to no queue: a loss that the simulation would have caused. Between two
// attempts the relay publishes nothing, because the recovery keeps the topic paused. If
// there is no recovery, the reconciliation reports it.
func (o *outage) awaitLull(ctx context.Context) error {
	for limit := time.Now().Add(lullLimit); time.Now().Before(limit); {
		if seen, err := o.describe(ctx); err == nil && time.Until(seen.next) > lull {
			return nil
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
	return nil
}

// watch looks at the outage from its beginning until ctx ends.
func (o *outage) watch(ctx context.Context) {
	for sleep(ctx, lookEvery) == nil {
		if from, _, _ := o.state(); !from.IsZero() {
			o.look(ctx)
		}
	}
}

// pausedSQL is about the present, so that it does not matter what an earlier run
// left behind.
const pausedSQL = `
SELECT topic FROM outbox.topic WHERE recovery_paused_until > now() OR paused_at >= $1`

// look notes the state of the recovery and the paused topics. If a query fails, the next
// call notes them.
func (o *outage) look(ctx context.Context) {
	if seen, err := o.describe(ctx); err == nil {
		o.note(func() { o.seen = seen })
	}
	from, _, _ := o.state()
	rows, err := o.db.Query(ctx, pausedSQL, from)
	if err != nil {
		return
	}
	topics, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return
	}
	o.note(func() {
		for _, topic := range topics {
			o.paused[topic] = true
		}
	})
}

func (o *outage) note(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *outage) state() (from, until time.Time, seen glimpse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.from, o.until, o.seen
}

// facts is called when the run is over.
func (o *outage) facts(ctx context.Context) (*Outage, error) {
	recoveries, err := o.recoveries(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	f := &Outage{Topic: brokenTopic, Destination: brokenDestination, From: o.from, Until: o.until, Recoveries: recoveries}
	for topic := range o.paused {
		f.Paused = append(f.Paused, topic)
	}
	slices.Sort(f.Paused)
	return f, nil
}
