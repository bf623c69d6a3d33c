package simulation

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/outbox"
	"github.com/temporal-outbox/relay/workflows"
)

var opened = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return opened.Add(d) }

// survivedIt are the facts of a sound run in which the ledger's destination was away
// from second 10 to second 20. The order was placed before and paid meanwhile.
func survivedIt() Facts {
	f := sound()
	at := map[outbox.ID]time.Time{
		placed: after(time.Second), paid: after(12 * time.Second), charged1: after(12 * time.Second), charged2: after(25 * time.Second),
	}
	for id, sent := range f.Sent {
		sent.At = at[id]
		f.Sent[id] = sent
	}
	for i, r := range f.Receipts {
		f.Receipts[i].At = at[r.Event].Add(20 * time.Millisecond)
		if r.Event == charged1 {
			f.Receipts[i].At = after(24 * time.Second)
		}
	}
	f.Outage = &Outage{
		Topic: order.TopicLedger, Destination: "ledger-events.fifo", From: after(10 * time.Second), Until: after(20 * time.Second),
		Recoveries: []Recovery{{"outbox-recovery/ledger", "Completed", workflows.RecoveryResult{Published: 1, Lasted: "15s"}}},
		Paused:     []string{order.TopicLedger},
	}
	return f
}

func TestReconcileOutage_OfASoundRunIsGreen(t *testing.T) {
	r := Reconcile(survivedIt())
	assert.Empty(t, red(r))
	assert.Len(t, r, len(Reconcile(sound()))+4, "what a run without an outage is not asked")
}

func TestReconcileOutage_EveryFaultTurnsItsCheckRed(t *testing.T) {
	late := func(f *Facts, event outbox.ID, by time.Duration) {
		for i, r := range f.Receipts {
			if r.Event == event {
				f.Receipts[i].At = r.At.Add(by)
			}
		}
	}
	const alone, unnoticed = "one recovery, by itself", "others did not notice"
	for name, c := range map[string]struct {
		spoil func(*Facts)
		red   string
	}{
		"nothing was written meanwhile": {func(f *Facts) {
			f.Sent[charged1] = Sent{Topic: order.TopicLedger, Type: order.Charged, At: after(0)}
		}, "a destination was away"},
		"there was no recovery": {func(f *Facts) { f.Outage.Recoveries = nil }, alone},
		"there were two": {func(f *Facts) {
			f.Outage.Recoveries = append(f.Outage.Recoveries, f.Outage.Recoveries[0])
		}, alone},
		"the others had one, too": {func(f *Facts) {
			second := f.Outage.Recoveries[0]
			second.ID = "outbox-recovery/orders"
			f.Outage.Recoveries = slices.Insert(f.Outage.Recoveries, 0, second)
		}, alone},
		"it was another topic's":       {func(f *Facts) { f.Outage.Recoveries[0].ID = "outbox-recovery/orders" }, alone},
		"it is still running":          {func(f *Facts) { f.Outage.Recoveries[0].Status = "Running" }, alone},
		"somebody ended it":            {func(f *Facts) { f.Outage.Recoveries[0].Status = "Terminated" }, alone},
		"somebody gave up":             {func(f *Facts) { f.Outage.Recoveries[0].Result.Parked = "ann" }, alone},
		"others published its batch":   {func(f *Facts) { f.Outage.Recoveries[0].Result.Lost = true }, alone},
		"another topic was paused":     {func(f *Facts) { f.Outage.Paused = []string{"ledger", "orders"} }, "nothing else was paused"},
		"nobody saw a pause":           {func(f *Facts) { f.Outage.Paused = nil }, "nothing else was paused"},
		"orders were slower meanwhile": {func(f *Facts) { late(f, paid, 101*time.Millisecond) }, unnoticed},
		"nothing came before":          {func(f *Facts) { f.Outage.From = after(0) }, unnoticed},
		"no order came meanwhile": {func(f *Facts) {
			f.Sent[paid] = Sent{Topic: order.TopicOrders, Type: order.Paid, At: after(21 * time.Second)}
		}, unnoticed},
		"an entry was lost in the gap":  {func(f *Facts) { f.Receipts = f.Receipts[:len(f.Receipts)-1] }, "nothing is lost"},
		"an entry became a dead letter": {func(f *Facts) { f.Dead = 1 }, "nothing waits"},
	} {
		t.Run(name, func(t *testing.T) {
			f := survivedIt()
			c.spoil(&f)
			assert.Equal(t, []string{c.red}, red(Reconcile(f)))
		})
	}
}

func TestReconcileOutage_NoticesAMedianThatDoubledAndRoseBy100Ms(t *testing.T) {
	for name, c := range map[string]struct {
		before, while time.Duration
		ok            bool
	}{
		"faster":                   {20 * time.Millisecond, 10 * time.Millisecond, true},
		"many times a short time":  {20 * time.Millisecond, 120 * time.Millisecond, true},
		"too much of a short time": {20 * time.Millisecond, 121 * time.Millisecond, false},
		"double a long time":       {300 * time.Millisecond, 600 * time.Millisecond, true},
		"more than double":         {300 * time.Millisecond, 601 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := survivedIt()
			for i, r := range f.Receipts {
				switch r.Event {
				case placed:
					f.Receipts[i].At = f.Sent[placed].At.Add(c.before)
				case paid:
					f.Receipts[i].At = f.Sent[paid].At.Add(c.while)
				}
			}
			assert.Equal(t, c.ok, Reconcile(f).OK())
		})
	}
}

func TestReconcileOutage_CountsNoRepeatAndNotTheTopicThatIsAway(t *testing.T) {
	f := survivedIt()
	f.Receipts = append(f.Receipts, Receipt{Queue: queueInventory, Event: placed, Outcome: Suppressed, At: after(time.Hour)})
	before, while := latencies(f)
	assert.Equal(t, 20*time.Millisecond, before)
	assert.Equal(t, 20*time.Millisecond, while)
}

func TestReconcileOutage_HasATableThatFitsATerminal(t *testing.T) {
	var out bytes.Buffer
	f := survivedIt()
	f.Outage.Paused = append(f.Outage.Paused, "orders")
	Reconcile(f).Print(&out, false)
	for line := range bytes.Lines(out.Bytes()) {
		assert.LessOrEqual(t, len([]rune(string(line))), 81, "%s", line)
	}
}
