package simulation

import (
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
)

// sight is the state of an outage that the view shows.
type sight struct {
	now, from, until time.Time
	in, lasts        time.Duration // until it begins; and then
	seen             glimpse
}

func (o *outage) sight() *sight {
	if o == nil {
		return nil
	}
	s := &sight{now: time.Now(), lasts: o.lasts()}
	s.in = o.began.Add(o.after()).Sub(s.now)
	s.from, s.until, s.seen = o.state()
	return s
}

// block is three lines at any time, because frames are drawn over each other.
func (s *sight) block() []string {
	lines := []string{fmt.Sprintf("  %-21s%s", brokenDestination, s.destination()), "", ""}
	if !s.from.IsZero() {
		lines[1] = fmt.Sprintf("  %-21s%s", "Temporal", strings.Join(s.seen.text(s.now), " · "))
		// On a line of its own, which may be cut, so that the rest is not.
		if s.seen.failure != "" {
			lines[2] = fmt.Sprintf("  %-21s%s", "", s.seen.failure)
		}
	}
	return lines
}

// line is empty while nothing is wrong yet.
func (s *sight) line() string {
	if s.from.IsZero() {
		return ""
	}
	parts := s.seen.text(s.now)
	if s.seen.failure != "" { // where the UI has it: after the attempt
		parts = append(parts[:2], append([]string{s.seen.failure}, parts[2:]...)...)
	}
	return brokenDestination + ": " + s.destination() + "\n       Temporal: " + strings.Join(parts, " · ")
}

func (s *sight) destination() string {
	switch {
	case s.from.IsZero():
		return fmt.Sprintf("there; goes away in %s", seconds(s.in))
	case s.until.IsZero():
		return fmt.Sprintf("gone for %s of %s", seconds(s.now.Sub(s.from)), seconds(s.lasts))
	case s.seen.status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return "back; the next attempt will find it"
	default:
		return "back"
	}
}

// text is workflow, attempt and the time of the next attempt, without the failure.
func (g glimpse) text(now time.Time) []string {
	switch {
	case g.workflow == "":
		return []string{"no recovery yet"}
	case g.status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return []string{g.workflow, strings.ToLower(g.status.String())}
	case g.attempt == 0:
		return []string{g.workflow, "running"}
	}
	next := "under way"
	if g.next.After(now) {
		next = "next attempt in " + seconds(g.next.Sub(now))
	}
	return []string{g.workflow, fmt.Sprintf("attempt %d", g.attempt), next}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", max(0, d).Seconds()) }
