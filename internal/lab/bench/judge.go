package bench

import (
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	enumspb "go.temporal.io/api/enums/v1"
)

// aroundChange is how long before and after the end of a run a gap is taken for
// one of the change.
const aroundChange = 2 * time.Second

// SoakReport is what Soak found.
type SoakReport struct {
	Rate    int     `json:"rate"`
	Seconds float64 `json:"seconds"`
	// Committed events; Acknowledged of them by the queue, the rest is Lost.
	Committed    int `json:"committed"`
	Acknowledged int `json:"published"`
	Lost         int `json:"lost"`
	// PublishedAgain counts events that the queue accepted more than once.
	PublishedAgain int `json:"published_again"`
	// Received events were seen by a consumer of the queue; ReceivedAgain counts
	// messages beyond the first of an event.
	Received          int `json:"received"`
	ReceivedAgain     int `json:"received_again"`
	MissingAtConsumer int `json:"missing_at_consumer"`

	LatencyMS Percentiles `json:"latency_ms"`
	// Gaps are times in which something waited and nothing was acknowledged.
	LongestGapMS         float64     `json:"longest_gap_ms"`
	LongestGapAt         float64     `json:"longest_gap_at_seconds"` // since the first commit
	LongestGapAtChangeMS float64     `json:"longest_gap_at_run_change_ms"`
	LimitMS              float64     `json:"gap_limit_ms"`
	Runs                 []RunReport `json:"runs"`
	Notes                []string    `json:"notes,omitempty"`
}

// RunReport is one run of the Relay workflow.
type RunReport struct {
	RunID    string    `json:"run_id"`
	Started  time.Time `json:"started"`
	Closed   time.Time `json:"closed,omitzero"`
	Status   string    `json:"status"`
	GapAtEnd float64   `json:"gap_at_end_ms,omitempty"`
}

// OK is true if nothing was lost, no gap was too long, and every run ended by its
// own decision.
func (r SoakReport) OK() bool {
	for _, n := range r.Runs {
		switch n.Status {
		case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING.String(), enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED.String(),
			enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW.String():
		default:
			return false
		}
	}
	return r.Lost == 0 && r.MissingAtConsumer == 0 && r.LongestGapMS <= r.LimitMS && len(r.Runs) > 0
}

// judge makes a report of what happened.
func judge(cfg SoakConfig, events []published, runs []run) SoakReport {
	report := SoakReport{
		Rate: cfg.Rate, Seconds: cfg.For.Seconds(), Committed: len(events),
		LimitMS: millis(cfg.MaxGap),
	}
	var waits []time.Duration
	var first time.Time
	for _, e := range events {
		if first.IsZero() || e.committed.Before(first) {
			first = e.committed
		}
		if e.acked.IsZero() {
			report.Lost++
			continue
		}
		waits = append(waits, e.acked.Sub(e.committed))
	}
	report.Acknowledged, report.LatencyMS = len(waits), percentiles(waits)
	found := gaps(events)
	most := longest(found, time.Time{}, time.Time{})
	report.LongestGapMS = millis(most.length())
	if most.length() > 0 {
		report.LongestGapAt = round(most.from.Sub(first).Seconds(), 1)
	}
	for _, n := range runs {
		line := RunReport{RunID: n.runID, Started: n.started, Closed: n.closed, Status: n.status.String()}
		if !n.closed.IsZero() {
			line.GapAtEnd = millis(longest(found, n.closed.Add(-aroundChange), n.closed.Add(aroundChange)).length())
			report.LongestGapAtChangeMS = max(report.LongestGapAtChangeMS, line.GapAtEnd)
		}
		report.Runs = append(report.Runs, line)
	}
	return report
}

// Print writes the report as a table for people.
func (r SoakReport) Print(out io.Writer) {
	t := newTable(out)
	t.AppendRows([]table.Row{
		{"committed", r.Committed},
		{"published", r.Acknowledged},
		{"lost", r.Lost},
		{"published again", r.PublishedAgain},
		{"received by a consumer", r.Received},
		{"received again", r.ReceivedAgain},
		{"latency p50, p99, max", msText(r.LatencyMS.P50, r.LatencyMS.P99, r.LatencyMS.Max)},
		{"longest gap", msText(r.LongestGapMS)},
		{"  at the end of a run", msText(r.LongestGapAtChangeMS)},
	})
	t.Render()
	t = newTable(out)
	t.AppendHeader(table.Row{"Run", "Started", "Lasted", "Status", "Gap at its end"})
	for _, n := range r.Runs {
		lasted, gapAtEnd := "", ""
		if !n.Closed.IsZero() {
			lasted, gapAtEnd = n.Closed.Sub(n.Started).Round(time.Millisecond).String(), msText(n.GapAtEnd)
		}
		t.AppendRow(table.Row{n.RunID, n.Started.Local().Format(time.TimeOnly), lasted, n.Status, gapAtEnd})
	}
	t.Render()
	for _, note := range r.Notes {
		_, _ = io.WriteString(out, "note: "+note+"\n")
	}
	if !r.OK() {
		_, _ = io.WriteString(out, "FAILED: an event was lost, a gap was above the limit, or a run failed, timed out or was terminated\n")
	}
}
