package bench

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// stackEnvironment is the stack's, with a database of the test's own.
func stackEnvironment(t *testing.T) []string {
	testenv.AWS(t)
	testenv.Temporal(t)
	return stack.Vars(os.Environ()).With("DATABASE_URL=" + testenv.DatabaseURL(t))
}

func TestRun_MeasuresThePartsThatItIsAskedFor(t *testing.T) {
	report, err := Run(t.Context(), Config{
		Environ: stackEnvironment(t), Progress: t.Output(), Only: []Part{Drain, FIFO, Latency},
		Events: 300, FIFOEvents: 10, Rate: 20, RateFor: time.Second,
	})
	require.NoError(t, err)
	for _, d := range report.Drains {
		require.Positive(t, d.EventsPerSecond)
		require.Positive(t, d.Activities)
		require.GreaterOrEqual(t, d.Requests, 30)
		require.Positive(t, d.WALBytesPerEvent)
		require.LessOrEqual(t, d.FirstSettled, d.Seconds)
	}
	require.Len(t, report.Drains, 1)
	require.Positive(t, report.FIFOOneKey.EventsPerSecond)
	require.Positive(t, report.FIFOOneKey.RoundTripMS)
	require.Positive(t, report.LatencyMS.P50)
	require.LessOrEqual(t, report.LatencyMS.P50, report.LatencyMS.P99)
	require.NotEmpty(t, report.Machine.PostgreSQL)

	text, err := json.Marshal(report)
	require.NoError(t, err)
	var contract map[string]any
	require.NoError(t, json.Unmarshal(text, &contract))
	for _, name := range []string{"events_per_second", "ceiling_events_per_second", "activities_per_1000_events"} {
		require.IsType(t, 0.0, contract[name], name)
	}
	for _, name := range []string{"p50", "p95", "p99"} {
		require.IsType(t, 0.0, contract["latency_ms"].(map[string]any)[name], name)
	}
	report.Print(t.Output())
}

func TestRun_MeasuresRowsBesideTheirCeilings(t *testing.T) {
	report, err := Run(t.Context(), Config{
		Environ: stackEnvironment(t), Progress: t.Output(), Events: 300, Pending: 2000,
		Only: []Part{Topics20, Drain, DelayFIFO, DelaySNS, HotKey, Kill, Backlog},
		size: sizes{lasting: time.Second, after: 2 * time.Second, delayed: 600, payloads: 1 << 20, held: 500},
	})
	require.NoError(t, err)
	for part, names := range map[Part][]string{
		Topics20:  {"p50_ms", "p99_ms", "bare_p50_ms", "per_minute", ratioName},
		Drain:     {"of_poller", "events_per_second", "activities_per_1000", ratioName},
		DelayFIFO: {"of_bare_16", "in_flight", ratioName},
		DelaySNS:  {"of_bare_16", "in_flight", ratioName},
		HotKey:    {"lane_p99_ms", "without_p50_ms", ratioName},
		Kill:      {"dead_gap_ms"},
		Backlog:   {"first_ms", "few_first_ms"},
	} {
		r := report.Rows[part]
		require.NotNil(t, r, part)
		require.Equal(t, 1, r.Runs, part)
		require.NotNil(t, r.Reached, "%s has goals", part)
		for _, name := range names {
			require.Contains(t, r.Values, name, part)
			require.Positive(t, r.Values[name].High, "%s of %s", name, part)
		}
	}
	require.Zero(t, report.Rows[Topics20].Values["missing"].High)
	require.InDelta(t, *report.RatioToCeiling, *report.Rows[Drain].Ratio, 1e-9)
	report.Print(t.Output())
}

func TestSoak_FindsNoFaultInARunningRelay(t *testing.T) {
	report, err := Soak(t.Context(), SoakConfig{
		Environ: stackEnvironment(t), Progress: t.Output(), Rate: 20, For: 2 * time.Second,
		MaxGap: 5 * time.Second, // other tests share the machine
	})
	require.NoError(t, err)
	require.True(t, report.OK(), "%+v", report)
	require.Equal(t, 40, report.Acknowledged)
	require.Equal(t, 40, report.Received)
	report.Print(t.Output())
}

func TestRun_RefusesAnUnknownPart(t *testing.T) {
	_, err := Run(t.Context(), Config{Only: []Part{"drian"}})
	require.ErrorContains(t, err, `there is no part "drian"`)
}
