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

// board is the table that a run shows in the Temporal UI, as its current details: each topic
// of the last sample, with the number of its events that this run has published. Details are not
// in the history: the worker that has the run keeps them, and answers queries with them.
type board struct {
	topics []relay.TopicState // the worst first
	more   int
	// unrouted is how many topics have events and no destination, including those of more.
	unrouted int
	asOf     time.Time
	since    time.Time // when the run began

	stale bool // the run knows more than it shows
	shown time.Time
}

// told takes over the sample of a claim, if the claim has one.
func (b *board) told(now time.Time, r activities.ClaimResult) {
	if len(r.Topics) > 0 {
		b.topics, b.more, b.unrouted, b.asOf, b.stale = r.Topics, r.MoreTopics, r.Unrouted, now, true
	}
}

// show sets the run's details if they have changed: at most once a second, but always when no
// batch is in flight, because the next change may then be far away.
func (r *run) show(ctx workflow.Context) {
	now := workflow.Now(ctx)
	if !r.board.stale || len(r.began) > 0 && now.Sub(r.board.shown) < time.Second {
		return
	}
	r.board.stale, r.board.shown = false, now
	workflow.SetCurrentDetails(ctx, r.board.markdown(r.result))
}

// markdown returns a sentence that says whether an operator has to act, and a table. The UI
// passes the text to its own page as a part of an address, and proxies limit the length of
// addresses. So markdown leaves out the last rows if the text would be too long.
func (b *board) markdown(result RelayResult) string {
	if len(b.topics) == 0 {
		return framed(fmt.Sprintf("Published in this run: **%s**. The table of topics appears here within half a minute.", events(result.Published)))
	}
	head := fmt.Sprintf("%s Seen at %s UTC.\n\n"+
		"| topic | state | pending | "+apart("oldest")+" | "+apart("batches in retry")+" | "+apart("dead letters")+" | "+apart("published since %s")+" |\n"+
		"|---|---|--:|--:|--:|--:|--:|\n",
		b.verdict(), b.asOf.UTC().Format(time.TimeOnly), b.since.UTC().Format(time.TimeOnly))
	var rows strings.Builder
	length := len(url.QueryEscape(head))
	for i, t := range b.topics {
		row := row(t, result)
		if length += len(url.QueryEscape(row)); length > maxAddress {
			return framed(head + rows.String() + "\n" + b.others(i))
		}
		rows.WriteString(row)
	}
	return framed(head + rows.String() + "\n" + b.others(len(b.topics)))
}

func row(t relay.TopicState, result RelayResult) string {
	published := 0
	if i, found := result.find(t.Topic); found {
		published = result.Topics[i].Published
	}
	pending := some(int(t.Pending))
	if t.Capped {
		pending = "≥ " + pending
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |\n", escape(t.Topic, maxName), state(t, published),
		pending, apart(unbroken(age(t.Oldest))), apart(some(t.Retrying)), apart(some(int(t.Dead))), apart(count(published)))
}

// others says how many topics there are besides those shown.
func (b *board) others(shown int) string {
	more, unrouted := b.more+len(b.topics)-shown, b.unrouted
	for _, t := range b.topics[:shown] {
		if t.Concern() == relay.Unrouted {
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
	case shown < len(b.topics) && b.topics[shown].Concern() == relay.Nothing,
		shown == len(b.topics) && b.topics[shown-1].Concern() == relay.Nothing:
		return fmt.Sprintf("… and %s more that flow.", count(more))
	default:
		return fmt.Sprintf("… and %s more.", count(more))
	}
}

// verdict names the problems that an operator has to solve. Usually there are none.
func (b *board) verdict() string {
	var broken, paused, waiting, dead int
	for _, t := range b.topics {
		if t.Recovery != "" {
			broken++
		}
		if t.PausedBy != "" {
			paused++
		}
		if t.Concern() == relay.Waiting {
			waiting++
		}
		if t.Dead > 0 {
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
		{b.unrouted, "without a route in `OUTBOX_CONFIG` (their events wait)"},
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

// state describes the state of a topic in a few words; published is the number of its events
// that this run has published.
func state(t relay.TopicState, published int) string {
	parts := trouble(t)
	if t.NoRoute && t.Pending > 0 {
		parts = append(parts, "**no route**")
	}
	if len(parts) == 0 {
		parts = append(parts, flow(t, published))
	}
	if t.Dead > 0 {
		parts = append(parts, "has **dead letters**: "+escape(t.DeadCode, maxName))
	}
	return strings.Join(parts, "; ")
}

// trouble returns the reasons why a topic is not published.
func trouble(t relay.TopicState) (parts []string) {
	if t.Recovery != "" {
		parts = append(parts, "**destination broken**"+cause(t.Failure)+", see workflow "+escape(t.Recovery, maxID))
	}
	if t.PausedBy != "" {
		parts = append(parts, "**paused** by "+escape(t.PausedBy, maxName)+": "+escape(t.PauseReason, maxReason))
	}
	return parts
}

// cause returns the failure for which a destination counts as broken, if an attempt has
// recorded it.
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

func flow(t relay.TopicState, published int) string {
	switch {
	case t.Concern() == relay.Waiting:
		return "**late**"
	case t.Concern() == relay.Retried:
		return "some events refused, retrying"
	case t.Pending == 0 && published == 0:
		return "idle"
	default:
		return "flows"
	}
}

// standing puts the topics of the last sample that need an operator into the result, so that
// you see them in a run that is over.
func (b *board) standing(r *RelayResult) {
	r.Broken, r.Paused, r.HaveDead = nil, nil, nil
	for _, t := range b.topics {
		if t.Recovery != "" {
			r.Broken = append(r.Broken, t.Topic)
		}
		if t.PausedBy != "" {
			r.Paused = append(r.Paused, t.Topic)
		}
		if t.Dead > 0 {
			r.HaveDead = append(r.HaveDead, t.Topic)
		}
	}
}

// summary returns the summary of the run's claims, which the UI shows in the timeline. It names
// the topics that need an operator.
func (b *board) summary() string {
	names := map[relay.Concern][]string{}
	for _, t := range b.topics {
		names[t.Concern()] = append(names[t.Concern()], printable.Cut(printable.Line(t.Topic), maxName))
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
