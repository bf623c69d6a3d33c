package chaos

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

// Requests that last so long that every busy batch outlives a short lease; and
// entries that are refused.
var (
	slow     = faults.Rule{Kind: faults.Slow, Share: 1, Delay: 1500 * time.Millisecond}
	refusing = faults.Rule{Kind: faults.FailEntry, Share: .3}
)

// operated makes dead letters of all topics: those of the FIFO ones are redriven, those
// of a standard one discarded. Then it replays both FIFO topics.
var operated = []plan.Step{
	{Kind: plan.Kind(faults.Poison), Share: .3, At: 2 * time.Second, For: 2 * time.Second},
	{Kind: plan.RedriveDead, Topic: "ledger", At: 6 * time.Second},
	{Kind: plan.RedriveDead, Topic: "inventory", At: 6 * time.Second},
	{Kind: plan.DiscardDead, Topic: "audit", At: 6 * time.Second, For: time.Second},
	{Kind: plan.ReplayTopic, Topic: "ledger", At: 9 * time.Second},
	{Kind: plan.ReplayTopic, Topic: "inventory", At: 9 * time.Second},
}

// decaying is the same with so many dead letters for so long that some are of days that
// Maintenance would like to drop, whenever it looks.
var decaying = append([]plan.Step{{Kind: plan.Kind(faults.Poison), Share: .5, At: time.Second, For: 7 * time.Second}}, operated[1:]...)

// disturbed has faults near which duplicates were once excused, whoever sent them.
var disturbed = []plan.Step{
	{Kind: plan.Kill, At: 2 * time.Second, For: time.Second},
	{Kind: plan.CutDatabase, At: 4 * time.Second, For: time.Second},
}

// Each broken worker meets the faults in which it shows, and one rule must say so (of
// events that are gone with their partition, also that they are lost and never end),
// and no other. The same worker, unbroken, among all of these faults, violates none:
// it is the mutation that turns the checker red.
func TestMutant_IsFoundByTheRuleOfThePromiseThatItBreaks(t *testing.T) {
	s := startStack(t)
	for name, c := range map[string]struct {
		constantFaults []faults.Rule
		plan           []plan.Step
		want           []check.Rule
		length         time.Duration // default 8 s
	}{
		"none":            {[]faults.Rule{slow, refusing}, operated, nil, 0},
		"fencing":         {[]faults.Rule{slow}, []plan.Step{}, []check.Rule{check.Repeated}, 0},
		"settle-first":    {[]faults.Rule{refusing}, []plan.Step{}, []check.Rule{check.Lost}, 0},
		"ordering":        {[]faults.Rule{}, []plan.Step{}, []check.Rule{check.Disorder}, 0},
		"forget-replays":  {[]faults.Rule{}, operated, []check.Rule{check.Lost}, 0},
		"replay-ordering": {[]faults.Rule{}, operated, []check.Rule{check.Disorder}, 0},
		"overtaking":      {[]faults.Rule{}, operated, []check.Rule{check.Disorder}, 0},
		"retention":       {[]faults.Rule{}, decaying, []check.Rule{check.Retention, check.Lost, check.Left}, 0},
		"hoarding":        {[]faults.Rule{}, operated, []check.Rule{check.Left}, 0},
		"twice":           {[]faults.Rule{}, disturbed, []check.Rule{check.Repeated}, 0},
		"sharing":         {[]faults.Rule{slow, refusing}, operated, nil, 0},
		"outliving":       {[]faults.Rule{}, disturbed, []check.Rule{check.Repeated}, 20 * time.Second},
		"stealing":        {[]faults.Rule{slow}, disturbed, []check.Rule{check.Repeated}, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := Run(t.Context(), Config{
				Stack: s, Seed: 1, Length: cmp.Or(c.length, 8*time.Second), Drain: 40 * time.Second, Rate: 30, Burst: 2, Progress: testLog{t},
				Program: module + "internal/lab/chaos/mutant", WorkerEnv: []string{"OUTBOX_MUTANT=" + name},
				Plan: c.plan, ConstantFaults: c.constantFaults,
			})
			require.NoError(t, err)
			require.Equal(t, len(c.want) == 0, report.OK)
			if len(c.plan) > len(disturbed) {
				require.Positive(t, report.Operations.Redriven)
				require.Positive(t, report.Operations.Replayed)
				require.Positive(t, report.Operations.Discarded)
				require.Equal(t, name != "hoarding", report.Retention.Events > 0)
			}
			seen := map[check.Rule]bool{}
			for _, v := range report.Violations {
				t.Logf("%s: %s", v.Rule, v.Text)
				seen[v.Rule] = true
			}
			for _, rule := range c.want {
				require.True(t, seen[rule], "nobody saw that %s is broken", name)
				delete(seen, rule)
			}
			require.Empty(t, seen, fmt.Sprintf("%s shows as something else", name))
		})
	}
}

// A standby that lacks some seconds gives their numbers to other events. (It also has
// leases whose end the old primary alone knew of, so the drain is longer than a lease.)
func TestMutant_ByNumberIsFoundWhenAFailoverRepeatsNumbers(t *testing.T) {
	report, err := Run(t.Context(), Config{
		Stack: startStack(t), Seed: 1, Length: 20 * time.Second, Drain: 90 * time.Second, Rate: 100, Burst: 2, Progress: testLog{t},
		Program: module + "internal/lab/chaos/mutant", WorkerEnv: []string{"OUTBOX_MUTANT=by-number"},
		Plan: []plan.Step{{Kind: plan.FailOver, At: 2 * time.Second, For: 4 * time.Second}}, ConstantFaults: []faults.Rule{},
	})
	require.NoError(t, err)
	require.Positive(t, report.LostCommits)
	require.Positive(t, report.Orphans)
	require.NotEmpty(t, report.Violations, "nobody saw that events of other histories were settled")
	for _, v := range report.Violations {
		require.Equal(t, check.Lost, v.Rule, v.Text)
	}
}
