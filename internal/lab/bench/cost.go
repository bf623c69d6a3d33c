package bench

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// CostConfig says at which rates and lingers to count. Environ is required.
type CostConfig struct {
	Environ  []string  // as in Config
	Progress io.Writer // as in Config
	// Rates are in events a second. Default 0 (for four times as long), 1, 10, 100 and 500.
	Rates []int
	// Lingers are what `starter schedule --linger` is given. Default 0, 100 ms and 1 s.
	Lingers []time.Duration
	// For is how long each is counted. Default 30 s.
	For time.Duration
}

func (c CostConfig) withDefaults() CostConfig {
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if len(c.Rates) == 0 {
		c.Rates = []int{0, 1, 10, 100, 500}
	}
	if len(c.Lingers) == 0 {
		c.Lingers = []time.Duration{0, 100 * time.Millisecond, time.Second}
	}
	if c.For <= 0 {
		c.For = 30 * time.Second
	}
	return c
}

// CostReport is what publishing cost in activities and requests.
type CostReport struct {
	Rows    []CostRow `json:"rows"`
	Machine Machine   `json:"machine"`
	Notes   []string  `json:"notes,omitempty"`
}

// CostRow is one rate with one linger.
type CostRow struct {
	Rate   int     `json:"rate"` // events a second
	Linger float64 `json:"linger_seconds"`
	// Actions are what Temporal Cloud bills for: activities, those that wait for events
	// included, their retries, timers, and heartbeats that reach the server.
	ActionsPerSecond    float64 `json:"actions_per_second"`
	HeartbeatsPerSecond float64 `json:"heartbeats_per_second"`
	ActivitiesPer1000   float64 `json:"activities_per_1000_events"`
	RequestsPer1000     float64 `json:"requests_per_1000_events"` // to the destination
	MedianMS            float64 `json:"median_ms"`                // commit to acknowledged
}

// Cost counts what publishing at steady rates costs.
func Cost(ctx context.Context, cfg CostConfig) (CostReport, error) {
	cfg = cfg.withDefaults()
	e, err := newEnvironment(ctx, cfg.Environ, nil, cfg.Progress)
	if err != nil {
		return CostReport{}, err
	}
	defer e.close()
	m := &measurement{environment: e}
	var report CostReport
	for _, linger := range cfg.Lingers {
		err := e.starter(ctx, e.vars, "schedule", "--every", "1h", "--maintain-every", "0", "--linger", linger.String())
		if err != nil {
			return report, err
		}
		for _, rate := range cfg.Rates {
			e.say("%d/s, linger %s:", rate, linger)
			lasting := cfg.For
			if rate == 0 { // a claim waits for half a minute
				lasting *= 4
			}
			l, waits, err := e.latency(ctx, rate, lasting)
			if err != nil {
				return report, fmt.Errorf("count at %d/s with linger %s: %w", rate, linger, err)
			}
			report.Rows = append(report.Rows, CostRow{
				Rate: rate, Linger: linger.Seconds(), ActivitiesPer1000: l.ActivitiesPer1000, RequestsPer1000: l.RequestsPer1000,
				ActionsPerSecond: l.ActionsPerSecond, HeartbeatsPerSecond: l.HeartbeatsPerSecond, MedianMS: waits.P50,
			})
		}
	}
	report.Notes = e.notes
	err = m.describeMachine(ctx)
	report.Machine = m.report.Machine
	return report, err
}

// Print writes the report as a table for people.
func (r CostReport) Print(out io.Writer) {
	t := newTable(out)
	t.AppendHeader(table.Row{"events/s", "linger", "actions/s", "heartbeats/s", "activities per 1,000", "requests per 1,000", "median ms"})
	for _, c := range r.Rows {
		t.AppendRow(table.Row{
			c.Rate, time.Duration(c.Linger * float64(time.Second)), c.ActionsPerSecond, c.HeartbeatsPerSecond, c.ActivitiesPer1000, c.RequestsPer1000, c.MedianMS,
		})
	}
	t.Render()
	for _, note := range r.Notes {
		_, _ = fmt.Fprintln(out, "note:", note)
	}
}
