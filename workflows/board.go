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

// board is what a run shows of itself in the Temporal UI, as its current details:
// each topic that was sampled, with what this run has published of it. Details are
// no events: they are kept where the run is, and handed out when somebody asks.
type board struct {
	topics []relay.TopicState // the worst first
	more   int
	// unrouted is how many topics have events and no destination, also of more.
	unrouted int
	asOf     time.Time
	since    time.Time // when the run began

	stale bool // what is shown is not what is known
	shown time.Time
}

// told takes a sample, if a claim brought one along.
func (b *board) told(now time.Time, r activities.ClaimResult) {
	if len(r.Topics) > 0 {
		b.topics, b.more, b.unrouted, b.asOf, b.stale = r.Topics, r.MoreTopics, r.Unrouted, now, true
	}
}

// show sets the run's details if they have changed: at most once a second, and when
// nothing is in flight and therefore the next change may be far.
func (r *run) show(ctx workflow.Context) {
	now := workflow.Now(ctx)
	if !r.board.stale || len(r.began) > 0 && now.Sub(r.board.shown) < time.Second {
		return
	}
	r.board.stale, r.board.shown = false, now
	workflow.SetCurrentDetails(ctx, r.board.markdown(r.result))
}

// markdown is a sentence that says whether somebody is needed, and a table. The UI
// hands it to its own page in an address, which proxies limit; so rows that would
// make it too long are left out, the last first.
func (b *board) markdown(result RelayResult) string {
	if len(b.topics) == 0 {
		return framed(fmt.Sprintf("Published in this run: **%s**. What each topic has comes here within half a minute.", events(result.Published)))
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

// others says how many topics there are beside those shown.
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

// verdict says what an operator has to do: mostly nothing.
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
		{b.unrouted, "without a route in `OUTBOX_CONFIG`: their events wait"},
		{waiting, "with events that wait for more than " + relay.Late.String()},
		{dead, "with dead letters, `starter dead list` has their reasons"},
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

// state says in a few words how a topic is, of which a run has published so much.
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

// trouble is what keeps a topic from being published.
func trouble(t relay.TopicState) (parts []string) {
	if t.Recovery != "" {
		parts = append(parts, "**destination broken**"+cause(t.Failure)+", see workflow "+escape(t.Recovery, maxID))
	}
	if t.PausedBy != "" {
		parts = append(parts, "**paused** by "+escape(t.PausedBy, maxName)+": "+escape(t.PauseReason, maxReason))
	}
	return parts
}

// cause says why a destination is taken for broken, if an attempt has said so.
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
		return "some refused, tried again"
	case t.Pending == 0 && published == 0:
		return "idle"
	default:
		return "flows"
	}
}

// standing names the topics of the last sample that need somebody, for who looks at a
// run that is over.
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

// summary is that of the run's claims, which the UI shows at the first glance: what
// they wait for, and which topics need somebody meanwhile.
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
