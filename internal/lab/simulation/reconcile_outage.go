package simulation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/workflows"
)

// Outage is what happened while a destination was taken away.
type Outage struct {
	Topic       string // the outbox's, which leads there and nowhere else
	Destination string
	From, Until time.Time // of its absence
	Recoveries  []Recovery
	Paused      []string // topics, paused by a recovery or by an operator
}

// Recovery is a workflow that began in this run, for any topic.
type Recovery struct {
	ID     string
	Status string // Temporal's
	Result workflows.RecoveryResult
}

// noticed is by how much a median may grow while a destination is away, if it has
// also more than doubled.
const noticed = 100 * time.Millisecond

// survived has the further checks after a destination was away.
func survived(f Facts) Report {
	o := f.Outage
	written := 0
	for _, sent := range f.Sent {
		if sent.Topic == o.Topic && o.during(sent.At) {
			written++
		}
	}
	others := slices.DeleteFunc(slices.Clone(o.Paused), func(topic string) bool { return topic == o.Topic })
	before, while := latencies(f)
	return Report{
		{
			"a destination was away",
			fmt.Sprintf("%s for %.1f s;\n%d events were written for it meanwhile", o.Destination, o.Until.Sub(o.From).Seconds(), written),
			written > 0,
		},
		recovered(o),
		{
			"nothing else was paused", fmt.Sprintf("the topic %s was, and %d others%s", o.Topic, len(others), list(others)),
			len(others) == 0 && slices.Contains(o.Paused, o.Topic),
		},
		{
			"others did not notice",
			fmt.Sprintf("commit to received: median %s before,\n%s while %s was away", ms(before), ms(while), o.Destination),
			// Zero is none at all: nothing is received in the moment of its commit.
			before > 0 && while > 0 && (while <= 2*before || while <= before+noticed),
		},
	}
}

// recovered checks that there was one recovery, and that it needed no operator.
func recovered(o *Outage) Check {
	c := Check{Name: "one recovery, by itself"}
	var lines []string
	for _, r := range o.Recoveries {
		line := r.ID + "\n" + strings.ToLower(r.Status)
		switch {
		case r.Result.Parked != "":
			line += ", parked by " + r.Result.Parked
		case r.Result.Lost:
			line += ", its batch in other hands"
		case r.Status == "Completed":
			line += " by itself after " + r.Result.Lasted
			c.OK = len(o.Recoveries) == 1 && strings.HasSuffix(r.ID, "/"+o.Topic)
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = append(lines, "there was none")
	}
	c.Detail = strings.Join(lines, "\n")
	return c
}

// during reports whether the destination was away then.
func (o *Outage) during(t time.Time) bool { return !t.Before(o.From) && t.Before(o.Until) }

// latencies are the medians from commit to first receipt of what led elsewhere.
func latencies(f Facts) (before, while time.Duration) {
	var all [2][]time.Duration
	first := map[delivery]bool{}
	for _, r := range f.Receipts {
		sent, known := f.Sent[r.Event]
		d := delivery{r.Queue, r.Event}
		if !known || first[d] || sent.Topic == f.Outage.Topic {
			continue
		}
		first[d] = true
		switch {
		case sent.At.Before(f.Outage.From):
			all[0] = append(all[0], r.At.Sub(sent.At))
		case f.Outage.during(sent.At):
			all[1] = append(all[1], r.At.Sub(sent.At))
		}
	}
	slices.Sort(all[0])
	slices.Sort(all[1])
	return percentile(all[0], 50), percentile(all[1], 50)
}

func list(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ":\n" + strings.Join(names, ", ")
}
