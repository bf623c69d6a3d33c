package simulation

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/outbox"
)

var placed, paid, charged1, charged2, rolledBack = outbox.ID{1}, outbox.ID{2}, outbox.ID{3}, outbox.ID{4}, outbox.ID{9}

// sound are the facts of a run in which all went well, a repeat included.
func sound() Facts {
	return Facts{
		Orders: 2, RolledBack: 1,
		Sent: map[outbox.ID]Sent{
			placed:   {Topic: order.TopicOrders, Type: order.Placed},
			paid:     {Topic: order.TopicOrders, Type: order.Paid},
			charged1: {Topic: order.TopicLedger, Type: order.Charged},
			charged2: {Topic: order.TopicLedger, Type: order.Charged},
		},
		RolledBackEvents: map[outbox.ID]bool{rolledBack: true},
		Receipts: []Receipt{
			{Queue: queueInventory, Event: paid, Outcome: Failed},
			{Queue: queueInventory, Event: placed, Outcome: Applied},
			{Queue: queueInventory, Event: paid, Outcome: Applied},
			{Queue: queueInventory, Event: placed, Outcome: Suppressed},
			{Queue: queueBilling, Event: paid, Outcome: Applied},
			{Queue: queueLedger, Event: charged1, Key: "a", Number: 1, Outcome: Applied},
			{Queue: queueLedger, Event: charged2, Key: "a", Number: 2, Outcome: Applied},
		},
		Stock:    []Tally{{"cup", 98, 98}, {"teapot", 99, 99}},
		Balances: []Tally{{"a", 250, 250}},
		Invoices: []Tally{{"a", 250, 250}},
	}
}

func red(r Report) (names []string) {
	for _, c := range r {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

func TestReconcile_OfASoundRunIsGreen(t *testing.T) {
	r := Reconcile(sound())
	assert.Empty(t, red(r))
	assert.True(t, r.OK())
}

func TestReport_WithoutChecksIsNotOK(t *testing.T) { assert.False(t, Report{}.OK()) }

func TestReconcile_EveryFaultTurnsItsCheckRed(t *testing.T) {
	remove := func(f *Facts, queue string, event outbox.ID) {
		f.Receipts = slices.DeleteFunc(f.Receipts, func(r Receipt) bool { return r.Queue == queue && r.Event == event })
	}
	for name, c := range map[string]struct {
		spoil func(*Facts)
		red   string
	}{
		"nobody ordered":               {func(f *Facts) { f.Orders = 0 }, "customers came"},
		"nothing was rolled back":      {func(f *Facts) { f.RolledBack = 0 }, "customers came"},
		"events are pending":           {func(f *Facts) { f.Pending = 1 }, "nothing waits"},
		"an event is a dead letter":    {func(f *Facts) { f.Dead = 1 }, "nothing waits"},
		"an event is lost":             {func(f *Facts) { remove(f, queueInventory, placed) }, "nothing is lost"},
		"one of two queues is missing": {func(f *Facts) { remove(f, queueBilling, paid) }, "nothing is lost"},
		"a ledger entry is lost":       {func(f *Facts) { remove(f, queueLedger, charged1) }, "nothing is lost"},
		"nothing arrives":              {func(f *Facts) { f.Receipts = nil }, "nothing is lost"},
		"a rolled-back event arrives": {func(f *Facts) {
			f.Receipts = append(f.Receipts, Receipt{Queue: queueInventory, Event: rolledBack, Outcome: Applied})
		}, "nothing rolled back got out"},
		"an event arrives that nobody wrote": {func(f *Facts) {
			f.Receipts = append(f.Receipts, Receipt{Queue: queueInventory, Event: outbox.ID{77}, Outcome: Failed})
		}, "nothing rolled back got out"},
		"entries change places": {func(f *Facts) {
			n := len(f.Receipts)
			f.Receipts[n-1], f.Receipts[n-2] = f.Receipts[n-2], f.Receipts[n-1]
		}, "order within each key"},
		"two entries have one number":        {func(f *Facts) { f.Receipts[len(f.Receipts)-1].Number = 1 }, "order within each key"},
		"a repeat takes effect":              {func(f *Facts) { f.Receipts[3].Outcome = Applied }, "repeats have no effect"},
		"an event is deleted without effect": {func(f *Facts) { f.Receipts[1].Outcome = Suppressed }, "repeats have no effect"},
		"an event never succeeds":            {func(f *Facts) { f.Receipts[2].Outcome = Failed }, "repeats have no effect"},
		"the filter lets something through": {func(f *Facts) {
			f.Receipts = append(f.Receipts, Receipt{Queue: queueBilling, Event: placed, Outcome: Failed})
		}, "filters hold"},
		"stock moved twice":            {func(f *Facts) { f.Stock[0].Got-- }, "stock matches orders"},
		"wrongs that cancel out":       {func(f *Facts) { f.Stock[0].Got--; f.Stock[1].Got++ }, "stock matches orders"},
		"there are no products":        {func(f *Facts) { f.Stock = nil }, "stock matches orders"},
		"a balance is out of date":     {func(f *Facts) { f.Balances[0].Got = 125 }, "ledger matches accounts"},
		"an invoice was written twice": {func(f *Facts) { f.Invoices[0].Got = 375 }, "invoices match payments"},
		"a consumer complained":        {func(f *Facts) { f.Problems = []string{"handle: no"} }, "consumers had no trouble"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sound()
			c.spoil(&f)
			r := Reconcile(f)
			assert.Equal(t, []string{c.red}, red(r))
			assert.False(t, r.OK())
		})
	}
}

func TestReconcile_IgnoresTheRestOfAnEarlierRun(t *testing.T) {
	f := sound()
	old := outbox.ID{50}
	f.Receipts = append(f.Receipts, Receipt{Queue: queueLedger, Event: old, Key: "b", Number: 7, Outcome: Applied})
	f.Leftovers = map[outbox.ID]bool{old: true}
	assert.True(t, Reconcile(f).OK())
}

func TestReconcile_TakesARepeatOfAnEarlierEntryForNoDisorder(t *testing.T) {
	f := sound()
	f.Receipts = append(f.Receipts, Receipt{Queue: queueLedger, Event: charged1, Key: "a", Number: 1, Outcome: Suppressed})
	assert.True(t, Reconcile(f).OK())
}

func TestReport_HasATableThatMarksEachCheckAndFitsATerminal(t *testing.T) {
	f := sound()
	f.Pending = 3
	var out bytes.Buffer
	Reconcile(f).Print(&out, false)
	assert.Contains(t, out.String(), "│ ✗ │ nothing waits ")
	assert.Contains(t, out.String(), "│ ✓ │ nothing is lost ")
	for line := range bytes.Lines(out.Bytes()) {
		assert.LessOrEqual(t, len([]rune(string(line))), 81, "%s", line)
	}
}

func TestProblems_AreCountedUnlessOnPurpose(t *testing.T) {
	p := &problemLog{}
	log := slog.New(p)
	for range 2 {
		log.Warn("handle", "queue", "inventory", "event", outbox.NewID(), "error", errors.New("no such product"))
		log.Warn("handle", "queue", "inventory", "error", errOnPurpose)
	}
	require.Equal(t, []string{"handle: inventory: no such product (2 times)"}, p.list())
}
