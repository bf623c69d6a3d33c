package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
)

func TestSoak_IsJudgedByLossesGapsAndHowRunsEnd(t *testing.T) {
	steady := sent([2]int{0, 10}, [2]int{100, 110}, [2]int{200, 260}, [2]int{210, 300})
	done := run{runID: "a", started: at(0), closed: at(205), status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED}
	last := run{runID: "b", started: at(240), status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING}
	cfg := SoakConfig{}.withDefaults()

	good := judge(cfg, steady, []run{done, last})
	require.True(t, good.OK(), "%+v", good)
	require.Equal(t, 4, good.Acknowledged)
	require.InDelta(t, 60, good.LongestGapMS, 0.01)
	require.InDelta(t, 60, good.LongestGapAtChangeMS, 0.01)
	require.InDelta(t, 60, good.Runs[0].GapAtEnd, 0.01)
	require.InDelta(t, 0.2, good.LongestGapAt, 0.01)

	for name, bad := range map[string]SoakReport{
		"no run at all": judge(cfg, steady, nil),
		"a timeout":     judge(cfg, steady, []run{{closed: at(1), status: enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT}, last}),
		"a termination": judge(cfg, steady, []run{{closed: at(1), status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED}, last}),
		"a failure":     judge(cfg, steady, []run{{closed: at(1), status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED}, last}),
		"a lost event":  judge(cfg, append(steady[:4:4], published{committed: at(220)}), []run{last}),
		"a long gap":    judge(cfg, append(steady[:4:4], sent([2]int{301, 900})...), []run{last}),
		"a short limit": judge(SoakConfig{MaxGap: 50 * time.Millisecond}, steady, []run{last}),
	} {
		require.False(t, bad.OK(), name)
	}
}
