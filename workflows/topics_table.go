package workflows

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
)

// topicsTable is the table that a run shows in the Temporal UI, in its current details. It has a row for
// each topic of the last sample, with the number of events that this run has published. The current
// details are not in the history: the worker that has the run answers queries for them.
type topicsTable struct {
	topics []relay.TopicState // the worst first
	more   int                // topics that the sample counted and does not list
	// unrouted is the number of topics that have events and no route, listed or not.
	unrouted  int
	sampledAt time.Time
	runBegan  time.Time

	seats int // workers that hold lanes of all topics

	changed bool // since the run last set its details, at shownAt
	shownAt time.Time
}

// update replaces the sample by the sample of a claim, if the claim has one.
func (t *topicsTable) update(now time.Time, r activities.ClaimResult) {
	if len(r.Topics) > 0 {
		t.topics, t.more, t.unrouted, t.sampledAt, t.changed = r.Topics, r.MoreTopics, r.Unrouted, now, true
	}
}

// show sets the run's details if they have changed: at most once a second, but always when no
// batch is in flight, because the next change may then be far away.
func (r *run) show(ctx workflow.Context) {
	now := workflow.Now(ctx)
	if !r.table.changed || len(r.startTimes) > r.seats && now.Sub(r.table.shownAt) < time.Second {
		return
	}
	r.table.changed, r.table.shownAt, r.table.seats = false, now, r.seats
	workflow.SetCurrentDetails(ctx, r.table.markdown(r.result))
}

// markdown returns a sentence that says whether an operator has to act, and a table. The UI
// passes the text to its own page as a part of an address, and proxies limit the length of
// addresses. So markdown leaves out the last rows if the text would be too long.
func (t *topicsTable) markdown(result RelayResult) string {
	if len(t.topics) == 0 {
		return withBlankLine(fmt.Sprintf("Published in this run: **%s**. The table of topics appears here within half a minute.", events(result.Published)))
	}
	head := fmt.Sprintf("%s%s Seen at %s UTC.\n\n"+
		"| topic | "+spaced("state")+" | "+spaced("pending")+" | "+spaced("oldest")+" | "+spaced("batches in retry")+" | "+spaced("dead letters")+" | "+spaced("published since %s")+" |\n"+
		"|---|---|--:|--:|--:|--:|--:|\n",
		t.problems(), t.seated(), t.sampledAt.UTC().Format(time.TimeOnly), t.runBegan.UTC().Format(time.TimeOnly))
	var rows strings.Builder
	length := len(url.QueryEscape(head))
	for i, topic := range t.topics {
		line := row(topic, result)
		if length += len(url.QueryEscape(line)); length > maxAddress {
			return withBlankLine(head + rows.String() + "\n" + t.remainder(i))
		}
		rows.WriteString(line)
	}
	return withBlankLine(head + rows.String() + "\n" + t.remainder(len(t.topics)))
}

// seated says how many workers hold lanes of all topics. Their pending activities say which lanes.
func (t *topicsTable) seated() string {
	switch t.seats {
	case 0:
		return ""
	case 1:
		return " One worker publishes lanes of all topics, see *Pending Activities*."
	}
	return fmt.Sprintf(" %s workers publish lanes of all topics, see *Pending Activities*.", count(t.seats))
}

// row returns the line of a topic.
func row(topic relay.TopicState, result RelayResult) string {
	published := 0
	if i, found := result.find(topic.Topic); found {
		published = result.Topics[i].Published
	}
	pending := countOrBlank(int(topic.Pending))
	if topic.Capped {
		pending = "≥ " + pending
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |\n", escape(topic.Topic, maxName), spaced(stateCell(topic, published)),
		spaced(pending), spaced(nonBreaking(age(topic.Oldest))), spaced(countOrBlank(topic.Retrying)), spaced(countOrBlank(int(topic.Dead))), spaced(count(published)))
}

// remainder returns a line about the topics that are not shown. It returns "" if all topics are shown.
func (t *topicsTable) remainder(shown int) string {
	more, unrouted := t.more+len(t.topics)-shown, t.unrouted
	for _, topic := range t.topics[:shown] {
		if topic.Concern() == relay.Unrouted {
			unrouted--
		}
	}
	if unrouted > 0 {
		if more -= unrouted; more == 0 {
			return fmt.Sprintf("… and %s more without a route.", count(unrouted))
		}
		return fmt.Sprintf("… and %s more without a route, and %s others.", count(unrouted), count(more))
	}
	switch {
	case more == 0:
		return ""
	case shown < len(t.topics) && t.topics[shown].Concern() == relay.Nothing,
		shown == len(t.topics) && t.topics[shown-1].Concern() == relay.Nothing:
		return fmt.Sprintf("… and %s more that flow.", count(more))
	default:
		return fmt.Sprintf("… and %s more.", count(more))
	}
}

// problems returns a sentence that names the problems for an operator, or says that there are none.
func (t *topicsTable) problems() string {
	var broken, paused, waiting, dead int
	for _, topic := range t.topics {
		if topic.Recovery != "" {
			broken++
		}
		if topic.PausedBy != "" {
			paused++
		}
		if topic.Concern() == relay.Waiting {
			waiting++
		}
		if topic.Dead > 0 {
			dead++
		}
	}
	var parts []string
	for _, p := range []struct {
		n    int
		text string
	}{
		{broken, "with a broken destination"},
		{paused, "paused by an operator"},
		{t.unrouted, "without a route in `OUTBOX_CONFIG` (their events wait)"},
		{waiting, "with events that have waited for more than " + relay.Late.String()},
		{dead, "with dead letters (`starter dead list` shows the reasons)"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("**%s** %s", count(p.n), p.text))
		}
	}
	if len(parts) == 0 {
		return "Every topic flows."
	}
	return "Topics: " + strings.Join(parts, "; ") + "."
}

// stateCell describes the state of a topic in a few words. The run has published the given number of
// its events.
func stateCell(topic relay.TopicState, published int) string {
	parts := whyNotPublished(topic)
	if topic.NoRoute && topic.Pending > 0 {
		parts = append(parts, "**no route**")
	}
	if len(parts) == 0 {
		parts = append(parts, progress(topic, published))
	}
	if topic.Dead > 0 {
		parts = append(parts, "has **dead letters**: "+escape(topic.DeadCode, maxName))
	}
	return strings.Join(parts, "; ")
}

// whyNotPublished returns the reasons why a topic is not published.
func whyNotPublished(topic relay.TopicState) (parts []string) {
	if topic.Recovery != "" {
		parts = append(parts, "**destination broken**"+cause(topic.Failure)+", see workflow "+escape(topic.Recovery, maxID))
	}
	if topic.PausedBy != "" {
		parts = append(parts, "**paused** by "+escape(topic.PausedBy, maxName)+": "+escape(topic.PauseReason, maxReason))
	}
	return parts
}

// cause returns the last failure of a broken destination, or "" if no attempt has recorded a failure.
func cause(f relay.Failure) string {
	if f.Code == "" {
		return ""
	}
	text := ": " + escape(f.Code, maxName)
	if f.Message != "" {
		text += ": " + escape(f.Message, maxReason)
	}
	return text + fmt.Sprintf(" (since %s UTC, next attempt at %s)",
		f.Since.UTC().Format(time.DateTime), f.Next.UTC().Format(time.TimeOnly))
}

// progress describes the state of a topic that is neither broken nor paused.
func progress(topic relay.TopicState, published int) string {
	switch {
	case topic.Concern() == relay.Waiting:
		return "**late**"
	case topic.Concern() == relay.Retried:
		return "some events refused, retrying"
	case topic.Pending == 0 && published == 0:
		return "idle"
	default:
		return "flows"
	}
}

// addConcerns adds the topics of the last sample that need an operator to the result, so that you see
// these topics after the run has ended.
func (t *topicsTable) addConcerns(r *RelayResult) {
	r.Broken, r.Paused, r.HaveDead = nil, nil, nil
	for _, topic := range t.topics {
		if topic.Recovery != "" {
			r.Broken = append(r.Broken, topic.Topic)
		}
		if topic.PausedBy != "" {
			r.Paused = append(r.Paused, topic.Topic)
		}
		if topic.Dead > 0 {
			r.HaveDead = append(r.HaveDead, topic.Topic)
		}
	}
}

// summary returns the summary of the run's claims, which the UI shows in the timeline. It names
// the topics that need an operator.
func (t *topicsTable) summary() string {
	names := map[relay.Concern][]string{}
	for _, topic := range t.topics {
		names[topic.Concern()] = append(names[topic.Concern()], printable.Cut(printable.Line(topic.Topic), maxName))
	}
	text := "wait for pending events"
	for _, c := range []struct {
		relay.Concern
		text string
	}{{relay.Broken, "broken"}, {relay.Paused, "paused"}, {relay.Waiting, "late"}, {relay.Unrouted, "no route"}} {
		if list := names[c.Concern]; len(list) > maxNamed {
			text += " · " + c.text + ": " + strings.Join(list[:maxNamed-1], ", ") + " and others"
		} else if len(list) > 0 {
			text += " · " + c.text + ": " + strings.Join(list, ", ")
		}
	}
	return printable.Cut(text, maxSummary)
}
