package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

// Print writes the report as a table for people.
func (r Report) Print(out io.Writer) {
	printRows(out, r.Rows)
	t := newTable(out)
	row := func(name string, format string, args ...any) {
		t.AppendRow(table.Row{name, fmt.Sprintf(format, args...)})
	}
	if r.EventsPerSecond != nil {
		before, after := r.Ceilings[0], r.Ceilings[1]
		row("ceiling: bare SDK", "%.0f events/s (before %.0f, after %.0f)", *r.CeilingEventsPerSecond, before.EventsPerSecond, after.EventsPerSecond)
		row("  CPU seconds", "%s", cpuText(after.CPUSeconds))
		row("drain", "%.0f events/s, %.2f of the ceiling", *r.EventsPerSecond, *r.RatioToCeiling)
		drainRows(row, r.Drains[0])
	}
	for name, c := range map[string]*Comparison{"held snapshot": r.HeldSnapshot, "many topics": r.Topics50, "with receipts": r.Receipts} {
		if c == nil {
			continue
		}
		t.AppendSeparator()
		row(fmt.Sprintf("%s (%d topics)", name, c.Topics), "%.0f events/s, %.2f of the plain drains' %.0f", c.EventsPerSecond, c.Ratio, c.PlainEventsPerSecond)
		drainRows(row, c.DrainResult)
	}
	if f := r.FIFOOneKey; f != nil {
		t.AppendSeparator()
		row("one FIFO key", "%.0f events/s; bare SDK %.0f, with a round trip of %.2f ms", f.EventsPerSecond, f.BareEventsPerSecond, f.RoundTripMS)
	}
	for _, w := range r.OpenWriters {
		t.AppendSeparator()
		row("open "+w.Open, "after %d events, a claim takes %.2f ms (%.2f times the time before), a load %.2f ms (%.2f times)", w.Events, w.ClaimMS, w.ClaimRatio, w.LoadMS, w.LoadRatio)
	}
	if l := r.LatencyMS; l != nil {
		t.AppendSeparator()
		row("commit to acknowledged", "p50 %.1f  p95 %.1f  p99 %.1f  max %.1f ms, at %d events/s", l.P50, l.P95, l.P99, l.Max, r.Latency.Rate)
		row("  activities, requests per 1,000", "%.0f, %.0f", r.Latency.ActivitiesPer1000, r.Latency.RequestsPer1000)
		row("  CPU seconds", "%s", cpuText(r.Latency.CPUSeconds))
	}
	t.AppendSeparator()
	m := r.Machine
	row("machine", "%d × %s, %.0f GiB, %s", m.CPUs, m.CPUModel, m.MemoryGiB, m.OS)
	row("versions", "%s, PostgreSQL %s, Temporal %s", m.Go, m.PostgreSQL, m.Temporal)
	row("durability", "fsync %s, synchronous_commit %s, on %s", m.Fsync, m.SynchronousCommit, m.DataOn)
	for _, note := range r.Notes {
		row("note", "%s", note)
	}
	t.Render()
}

func drainRows(row func(string, string, ...any), d DrainResult) {
	row("  trigger to last settled", "%.2f s; the first event after %.3f s", d.Seconds, d.FirstSettled)
	row("  activities per 1,000 events", "%.2f", d.ActivitiesPer1000)
	row("  events per request", "%.2f", d.EventsPerRequest)
	row("  WAL per event", "%.0f bytes", d.WALBytesPerEvent)
	row("  CPU seconds", "%s", cpuText(d.CPUSeconds))
}

func cpuText(used map[string]float64) string {
	parts := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return int(100 * (used[b] - used[a])) })
	for i, part := range parts {
		parts[i] = fmt.Sprintf("%s %.1f", part, used[part])
	}
	return strings.Join(parts, ", ")
}

func newTable(out io.Writer) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	return t
}
