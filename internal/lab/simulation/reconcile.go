package simulation

import (
	"fmt"
	"strings"

	"github.com/temporal-outbox/relay/outbox"
)

// Check is one thing that must hold.
type Check struct {
	Name   string
	Detail string // what was counted
	OK     bool
}

// Report is the outcome of a run.
type Report []Check

// OK is true if every check held.
func (r Report) OK() bool {
	for _, c := range r {
		if !c.OK {
			return false
		}
	}
	return len(r) > 0
}

// Reconcile compares the committed events with the received ones, and with the services'
// tables.
func Reconcile(f Facts) Report {
	d := deliveries(f)
	r := Report{
		{
			"customers came", fmt.Sprintf("%d orders, %d transactions rolled back", f.Orders, f.RolledBack),
			f.Orders > 0 && f.RolledBack > 0,
		},
		{
			"nothing waits", fmt.Sprintf("%d events pending, %d dead letters", f.Pending, f.Dead),
			f.Pending == 0 && f.Dead == 0,
		},
		{
			"nothing is lost", fmt.Sprintf("%d lost of %d events (%d deliveries)", len(d.lost), len(f.Sent), d.expected),
			len(d.lost) == 0,
		},
		{
			"nothing rolled back got out", fmt.Sprintf("%d received of %d events rolled back", d.phantom, len(f.RolledBackEvents)),
			d.phantom == 0,
		},
		{
			"order within each key", fmt.Sprintf("%d out of order of %d entries, %d keys", d.late, d.ordered, d.keys),
			d.late == 0,
		},
		{
			"repeats have no effect", fmt.Sprintf("%d received again, %d of them ignored;\n%d took effect twice, %d never",
				d.repeats, d.suppressed, d.twice, d.never),
			d.twice == 0 && d.never == 0,
		},
		{
			"filters hold", fmt.Sprintf("%d events in a wrong queue", d.misrouted),
			d.misrouted == 0,
		},
		tallied("stock matches orders", "units of %d products on the shelves", f.Stock),
		tallied("ledger matches accounts", "cents on %d accounts", f.Balances),
		tallied("invoices match payments", "cents on %d accounts", f.Invoices),
	}
	if f.Outage != nil {
		r = append(r, survived(f)...)
	}
	if len(f.Problems) > 0 {
		r = append(r, Check{"consumers had no trouble", strings.Join(f.Problems, "\n"), false})
	}
	return r
}

// tallied checks that both parties counted the same, and says where they did not.
func tallied(name, things string, all []Tally) Check {
	var got int64
	var differ []string
	for _, t := range all {
		got += t.Got
		if t.Want != t.Got {
			differ = append(differ, fmt.Sprintf("%s: %d instead of %d", t.Name, t.Got, t.Want))
		}
	}
	if most := 3; len(differ) > most {
		differ = append(differ[:most], fmt.Sprintf("and %d more", len(differ)-most))
	}
	if len(differ) > 0 {
		return Check{name, strings.Join(differ, "\n"), false}
	}
	return Check{name, fmt.Sprintf("%d "+things, got, len(all)), len(all) > 0}
}

// counted is what receipts add up to.
type counted struct {
	expected  int // deliveries
	lost      map[outbox.ID]bool
	phantom   int // receipts of what was never committed
	misrouted int // receipts in a wrong queue
	ordered   int // first receipts in ordered queues
	late      int // of them, after a later one of their key
	keys      int

	repeats, suppressed int // receipts
	twice, never        int // deliveries
}

func deliveries(f Facts) counted {
	c := counted{lost: map[outbox.ID]bool{}}
	applied := map[delivery]int{} // zero, but there: not yet
	for id, sent := range f.Sent {
		for _, queue := range queuesFor(sent.Topic, sent.Type) {
			applied[delivery{queue, id}] = 0
		}
	}
	c.expected = len(applied)
	received := map[delivery]bool{}
	latest := map[string]int64{} // number by key
	for _, r := range f.Receipts {
		if f.Leftovers[r.Event] {
			continue
		}
		d := delivery{r.Queue, r.Event}
		again := received[d]
		received[d] = true
		if again {
			c.repeats++
		}
		_, expected := applied[d]
		_, committed := f.Sent[r.Event]
		switch {
		case !committed:
			c.phantom++
		case !expected:
			c.misrouted++
		case r.Outcome == Applied:
			applied[d]++
		case r.Outcome == Suppressed:
			c.suppressed++
		}
		if r.Key == "" || again || !committed {
			continue
		}
		c.ordered++
		if r.Number <= latest[r.Key] {
			c.late++
		}
		latest[r.Key] = max(latest[r.Key], r.Number)
	}
	c.keys = len(latest)
	for d, times := range applied {
		switch {
		case !received[d]:
			c.lost[d.event] = true
		case times == 0:
			c.never++
		case times > 1:
			c.twice++
		}
	}
	return c
}
