package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

// patience is the longest wait for requests under way, and for an empty queue.
const patience = time.Minute

// recreate deletes a topic or queue and creates it again after a while. AWS loses the
// messages in a queue that is deleted, and those that a topic gets before a queue is
// subscribed. So the proxy holds the relay's requests at both moments. In between, the
// relay really finds no destination.
func (fx *fixture) recreate(ctx context.Context, step plan.Step) error {
	fx.recreating.Lock()
	defer fx.recreating.Unlock()
	name := fx.aim(step.Topic)
	gate := fx.proxy.Begin(faults.Rule{Kind: faults.Hold, Destination: name, Share: 1})
	defer func() { gate() }()
	if err := fx.emptied(ctx, step.Topic); err != nil {
		return err
	}
	if err := fx.remove(ctx, step.Topic); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	fx.count(string(step.Kind))
	gate()
	wait(ctx, step.For)
	gate = fx.proxy.Begin(faults.Rule{Kind: faults.Hold, Destination: name, Share: 1})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := fx.proxy.Quiesce(ctx, name); err != nil {
		return fmt.Errorf("wait for requests to %s: %w", name, err)
	}
	if _, err := fx.topology.Apply(ctx, fx.aws); err != nil {
		return fmt.Errorf("make %s again: %w", name, err)
	}
	return nil
}

// emptied waits until nothing is on its way to a destination that will be deleted,
// nor in it.
func (fx *fixture) emptied(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := fx.proxy.Quiesce(ctx, fx.aim(topic)); err != nil {
		return fmt.Errorf("wait for requests to %s: %w", topic, err)
	}
	d := fx.of(topic)
	if d.service == "sns" {
		return nil // its queues stay
	}
	for {
		empty, err := fx.empty(ctx, d.name)
		if empty || err != nil {
			return err
		}
		if !wait(ctx, 20*time.Millisecond) {
			return fmt.Errorf("the queue of %s does not become empty", topic)
		}
	}
}
