package bench

import (
	"fmt"
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
)

// figure is one value of a row, and its goal if it has one.
type figure struct {
	name string // in JSON, with the unit
	text string // for people
	goal goal
}

// goal limits a figure. The zero value is no goal.
type goal struct {
	limit float64
	least bool // the figure must not be below the limit; otherwise not above it
}

func atMost(limit float64) goal  { return goal{limit: limit} }
func atLeast(limit float64) goal { return goal{limit: limit, least: true} }

func (g goal) none() bool { return g == goal{} }

func (g goal) reached(value float64) bool {
	if g.least {
		return value >= g.limit
	}
	return value <= g.limit
}

func (g goal) String() string {
	if g.none() {
		return ""
	}
	if g.least {
		return fmt.Sprintf("≥ %g", g.limit)
	}
	return fmt.Sprintf("≤ %g", g.limit)
}

// sample is what one run of a row found, by the names of its figures. A figure that could not
// be measured is missing.
type sample map[string]float64

// Value is a figure over the runs of a row.
type Value struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	// AtMost or AtLeast is the goal, and Reached says whether the median reaches it.
	AtMost  *float64 `json:"at_most,omitempty"`
	AtLeast *float64 `json:"at_least,omitempty"`
	Reached *bool    `json:"reached,omitempty"`
}

// Row is one row of the table of goals, measured beside its ceiling in the same run.
type Row struct {
	Measure string `json:"measure"`
	Runs    int    `json:"runs"`
	// Ratio is the row's main ratio, a median, and RatioOf says of what.
	Ratio   *float64 `json:"ratio"`
	RatioOf string   `json:"ratio_of"`
	// Values are the figures by their names, which end with the unit.
	Values map[string]Value `json:"values"`
	// Reached is true if all goals are. It is missing if the row has none.
	Reached *bool `json:"reached,omitempty"`
	// Load has the machine's load average of one minute at the beginning and at the end of
	// each run: other programs share the machine.
	Load []float64 `json:"load_average,omitempty"`

	figures []figure // in the order for people
}

// ratioName is the figure that is the row's main ratio.
const ratioName = "ratio"

// newRow sums up the runs of a row.
func newRow(measure, ratioOf string, figures []figure, samples []sample) *Row {
	r := &Row{Measure: measure, RatioOf: ratioOf, Runs: len(samples), Values: map[string]Value{}, figures: figures}
	for _, f := range figures {
		var found []float64
		for _, s := range samples {
			if x, ok := s[f.name]; ok {
				found = append(found, x)
			}
		}
		if len(found) == 0 {
			continue
		}
		r.Values[f.name] = r.judge(f.goal, found)
	}
	if v, ok := r.Values[ratioName]; ok {
		r.Ratio = &v.Median
	}
	return r
}

// judge makes a value of a figure's samples, and notes whether the row reaches its goals.
func (r *Row) judge(g goal, found []float64) Value {
	slices.Sort(found)
	v := Value{Median: median(found), Low: found[0], High: found[len(found)-1]}
	if g.none() {
		return v
	}
	if g.least {
		v.AtLeast = &g.limit
	} else {
		v.AtMost = &g.limit
	}
	reached := g.reached(v.Median)
	v.Reached = &reached
	all := reached && (r.Reached == nil || *r.Reached)
	r.Reached = &all
	return v
}

// median of sorted values; of two in the middle, their mean.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return round((sorted[(n-1)/2]+sorted[n/2])/2, 3)
}

// printRows writes the rows for people, each figure beside its goal.
func printRows(out io.Writer, rows map[Part]*Row) {
	if len(rows) == 0 {
		return
	}
	t := newTable(out)
	t.AppendHeader(table.Row{"Row", "Figure", "Median", "Low to high", "Goal", "Reached"})
	for _, part := range Parts() {
		r := rows[part]
		if r == nil {
			continue
		}
		t.AppendSeparator()
		name := string(part)
		for i, f := range r.figures {
			v, ok := r.Values[f.name]
			if !ok {
				continue
			}
			spread, reached := "", ""
			if r.Runs > 1 {
				spread = fmt.Sprintf("%g to %g", v.Low, v.High)
			}
			if v.Reached != nil {
				reached = map[bool]string{true: "yes", false: "NO"}[*v.Reached]
			}
			text := f.text
			if f.name == ratioName {
				text = r.RatioOf
			}
			t.AppendRow(table.Row{name, text, fmt.Sprintf("%g", v.Median), spread, f.goal.String(), reached})
			if name = ""; i == 0 {
				name = fmt.Sprintf("  %d run(s)", r.Runs)
			}
		}
		t.AppendRow(table.Row{"", "load average", r.load(), "", "", ""})
	}
	t.Render()
}

func (r *Row) load() string {
	if len(r.Load) == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f to %.1f", slices.Min(r.Load), slices.Max(r.Load))
}
