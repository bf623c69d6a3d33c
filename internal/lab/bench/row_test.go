package bench

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

var someFigures = []figure{
	{name: "p50_ms", text: "p50, ms", goal: atMost(15)},
	{name: "ratio", goal: atLeast(0.9)},
	{name: "bare_ms", text: "bare, ms"},
	{name: "unknown", text: "not measured", goal: atMost(1)},
}

func TestRow_HasMediansRangesAndGoals(t *testing.T) {
	r := newRow("something", "of the bare SDK", someFigures, []sample{
		{"p50_ms": 30, "ratio": 0.8, "bare_ms": 3}, {"p50_ms": 10, "ratio": 0.9}, {"p50_ms": 12, "ratio": 1, "other": 5},
	})
	require.Equal(t, 3, r.Runs)
	require.InDelta(t, 0.9, *r.Ratio, 1e-9)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.JSONEq(t, `{
		"measure": "something", "runs": 3, "ratio": 0.9, "ratio_of": "of the bare SDK", "reached": true,
		"values": {
			"p50_ms":  {"median": 12, "low": 10, "high": 30, "at_most": 15, "reached": true},
			"ratio":   {"median": 0.9, "low": 0.8, "high": 1, "at_least": 0.9, "reached": true},
			"bare_ms": {"median": 3, "low": 3, "high": 3}
		}
	}`, string(text))
}

func TestRow_MissesIfOneGoalIsMissed(t *testing.T) {
	r := newRow("", "", someFigures, []sample{{"p50_ms": 16, "ratio": 1}})
	require.False(t, *r.Values["p50_ms"].Reached)
	require.True(t, *r.Values["ratio"].Reached)
	require.False(t, *r.Reached)
	require.Nil(t, newRow("", "", someFigures, []sample{{"bare_ms": 1}}).Reached, "it has no goals")
}

func TestMedian_IsTheMiddleOrTheMeanOfTwo(t *testing.T) {
	require.Zero(t, median(nil))
	require.InDelta(t, 7, median([]float64{7}), 0)
	require.InDelta(t, 2.5, median([]float64{1, 2, 3, 9}), 0)
}

func TestReport_PrintsEachFigureBesideItsGoal(t *testing.T) {
	r := newRow("", "of the bare SDK", someFigures, []sample{{"p50_ms": 16, "ratio": 1}, {"p50_ms": 20, "ratio": 0.9}})
	r.Load = []float64{0.5, 1.25}
	var out bytes.Buffer
	printRows(&out, map[Part]*Row{Topics20: r})
	for _, line := range []string{
		`│ topics20   │ p50, ms         │ 18         │ 16 to 20    │ ≤ 15  │ NO      │`,
		`│   2 run(s) │ of the bare SDK │ 0.95       │ 0.9 to 1    │ ≥ 0.9 │ yes     │`,
	} {
		require.Contains(t, out.String(), line)
	}
	require.Contains(t, out.String(), "0.5 to 1.2")
	require.NotContains(t, out.String(), "not measured")
	out.Reset()
	printRows(&out, nil)
	require.Empty(t, out.String())
}
