package workflows

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
)

func tableOf(topics ...relay.TopicState) *topicsTable {
	var b topicsTable
	b.runBegan = time.Date(2026, 11, 24, 4, 4, 0, 0, time.UTC)
	b.update(time.Date(2026, 11, 24, 4, 5, 6, 0, time.UTC), activities.ClaimResult{Topics: topics})
	return &b
}

func TestDetails_ShowTheStateOfEachTopic(t *testing.T) {
	b := tableOf(
		relay.TopicState{Topic: "billing", Pending: 100_000, Capped: true, Oldest: 3*time.Hour + 5*time.Minute, Retrying: 1, Recovery: "outbox-recovery/billing"},
		relay.TopicState{Topic: "orders", Pending: 1234, Oldest: 65 * time.Second, PausedBy: "ada", PauseReason: "their deploy"},
		relay.TopicState{Topic: "audit", Pending: 1, Oldest: relay.Late},
		relay.TopicState{Topic: "refunds", Pending: 1, Oldest: 2 * time.Second, Retrying: 2, Dead: 3, DeadCode: "EventTooLarge"},
		relay.TopicState{Topic: "bulk", Dead: 1, DeadCode: "InvalidMessageContents"},
		relay.TopicState{Topic: "ledger"},
		relay.TopicState{Topic: "mail"},
	)
	want := strings.NewReplacer("_", "\u00a0", "'", "`").Replace(`Topics: **1** with a broken destination; **1** paused by an operator; ` +
		`**1** with events that have waited for more than 30s; **2** with dead letters ('starter dead list' shows the reasons). Seen at 04:05:06 UTC.

| topic | _state | _pending | _oldest | _batches in retry | _dead letters | _published since 04:04:00 |
|---|---|--:|--:|--:|--:|--:|
| billing | _**destination broken**, see workflow outbox-recovery/billing | _≥ 100,000 | _3_h_5_min | _1 |  | _0 |
| orders | _**paused** by ada: their deploy | _1,234 | _1_min_5_s |  |  | _0 |
| audit | _**late** | _1 | _30_s |  |  | _0 |
| refunds | _some events refused, retrying; has **dead letters**: EventTooLarge | _1 | _2_s | _2 | _3 | _0 |
| bulk | _idle; has **dead letters**: InvalidMessageContents |  |  |  | _1 | _0 |
| ledger | _flows |  |  |  |  | _12,000 |
| mail | _idle |  |  |  |  | _0 |


` + "\n_")
	require.Equal(t, want, b.markdown(RelayResult{Topics: []TopicResult{{Topic: "ledger", Published: 12_000}}}))
	require.Equal(t, "wait for pending events · broken: billing · paused: orders · late: audit", b.summary())
}

func TestDetails_SayHowManyWorkersHoldLanesOfAllTopics(t *testing.T) {
	b := tableOf(relay.TopicState{Topic: "orders"})
	for seats, text := range map[int]string{
		0: "Every topic flows. Seen at",
		1: "Every topic flows. One worker publishes lanes of all topics, see *Pending Activities*. Seen at",
		2: "Every topic flows. 2 workers publish lanes of all topics, see *Pending Activities*. Seen at",
	} {
		b.seats = seats
		require.Contains(t, b.markdown(RelayResult{}), text)
	}
}

// UI 2.54 leaves no space between two columns. A no-break space keeps them apart even in the row
// with the widest cell.
func TestDetails_KeepColumnsApart(t *testing.T) {
	b := tableOf(relay.TopicState{
		Topic: strings.Repeat("t", maxName), Pending: 1234, Oldest: time.Hour, PausedBy: "ada", PauseReason: strings.Repeat("r", maxReason), Retrying: 1, Dead: 1, DeadCode: "A",
	})
	lines := strings.Split(b.markdown(RelayResult{}), "\n")
	for _, line := range []string{lines[2], lines[4]} {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		require.Len(t, cells, 7)
		for _, cell := range cells[1:] {
			require.True(t, strings.HasPrefix(cell, " \u00a0"), "%q in %q", cell, line)
		}
	}
}

func TestDetails_SayThatEveryTopicFlows(t *testing.T) {
	require.Contains(t, tableOf(relay.TopicState{Topic: "orders", Pending: 5}).markdown(RelayResult{}), "Every topic flows.")
	require.Contains(t, (&topicsTable{}).markdown(RelayResult{Published: 1}), "Published in this run: **1 event**")
	require.Equal(t, "wait for pending events", (&topicsTable{}).summary())
}

func TestDetails_ShowThatATopicIsBrokenAndPaused(t *testing.T) {
	b := tableOf(relay.TopicState{Topic: "orders", Recovery: "r", PausedBy: "ada", PauseReason: "why"})
	require.Contains(t, b.markdown(RelayResult{}), "| \u00a0**destination broken**, see workflow r; **paused** by ada: why |")
}

func TestDetails_ShowTheFailureAndTheStartOfARecovery(t *testing.T) {
	at := time.Date(2026, 11, 24, 4, 0, 0, 0, time.UTC)
	b := tableOf(relay.TopicState{Topic: "orders", Recovery: "r", Failure: relay.Failure{
		Code: "AccessDenied", Message: "no identity-based policy allows | it", Destination: "SQS queue orders", Since: at, Next: at.Add(6 * time.Minute),
	}})
	require.Contains(t, b.markdown(RelayResult{}),
		"| \u00a0"+`**destination broken**: AccessDenied: no identity-based policy allows \| it (since 2026-11-24 04:00:00 UTC, next attempt at 04:06:00), see workflow r |`)
}

func TestDetails_NameAFewTopicsWithoutARouteAndCountTheOthers(t *testing.T) {
	topics := []relay.TopicState{
		{Topic: "billing", Pending: 1, Oldest: relay.Late},
		{Topic: "odrers", Pending: 7, Oldest: time.Hour, NoRoute: true},
		{Topic: "oders", Pending: 7, Oldest: time.Hour, NoRoute: true, Recovery: "outbox-recovery/oders"},
		{Topic: "orders"},
	}
	b := tableOf(topics...)
	b.more, b.unrouted = 2005, 2000
	text := b.markdown(RelayResult{})
	require.Contains(t, text, "**2,000** without a route in `OUTBOX_CONFIG` (their events wait)")
	require.Contains(t, text, "| odrers | \u00a0**no route** | \u00a07 |")
	require.Contains(t, text, "| oders | \u00a0**destination broken**, see workflow outbox-recovery/oders; **no route** | \u00a07 |")
	require.Contains(t, text, "… and 1,999 more without a route, and 6 others.")
	require.Equal(t, "wait for pending events · broken: oders · late: billing · no route: odrers", b.summary())
	b.more = 1999
	require.Contains(t, b.markdown(RelayResult{}), "… and 1,999 more without a route.\n")
}

// The name of a topic or the text of a reason must not change the table, and must not make the browser
// load or run anything.
func TestDetails_ShowNamesAndReasonsLiterally(t *testing.T) {
	b := tableOf(relay.TopicState{
		Topic: "a|b_c*d\n| x |", PausedBy: "<script>alert(1)</script>",
		PauseReason: "![x](http://evil) `y` &amp; " + strings.Repeat("ü", 200),
	})
	lines := strings.Split(b.markdown(RelayResult{}), "\n")
	require.Equal(t, `| a\|b\_c\*d \| x \| | `+"\u00a0"+`**paused** by \<script\>alert(1)\</script\>: !\[x\](http://evil) \`+"`y\\`"+` \&amp; `+
		strings.Repeat("ü", 72)+"… |  |  |  |  | \u00a00 |", lines[4])
}

// The Temporal CLI prints details and summaries to terminals, and a browser obeys marks for
// bidirectional text.
func TestDetails_HaveNoCharacterThatATerminalObeys(t *testing.T) {
	const topic, shown = "\x1b[31mred\u202e\n", `\u001b[31mred\u202e`
	b := tableOf(relay.TopicState{Topic: topic, Oldest: time.Hour, PausedBy: topic, PauseReason: topic, Recovery: topic, Dead: 1, DeadCode: topic})
	in := RecoveryInput{Batch: relay.Batch{Topic: topic}, Destination: topic, Error: topic, Reason: topic}
	r := &recovery{in: in, park: &ParkRequest{By: topic, Reason: topic}}
	for _, text := range []string{
		b.markdown(RelayResult{}), b.summary(), r.details(), r.epilogue(), fitSummary("retry " + topicAndDestination(in)), summary(in.Batch),
		details(OperationInput{Kind: relay.Replay, Topic: topic}, 1), MaintenanceResult{Warnings: []string{topic}}.details(),
	} {
		require.Contains(t, strings.NewReplacer(`\\`, `\`, `\[`, `[`).Replace(text), shown)
		require.Equal(t, printable.Text(text), text)
	}
}

func TestDetails_FitIntoAnAddressForAnyTopicName(t *testing.T) {
	for name, topic := range map[string]relay.TopicState{
		"plain": {Topic: "orders", Pending: 100_000, Capped: true, Oldest: time.Hour},
		"long": {
			Topic: strings.Repeat("語", 85), PausedBy: strings.Repeat("|", 100), PauseReason: strings.Repeat("💥", 50),
			Recovery: strings.Repeat("語", 85),
			Failure:  relay.Failure{Code: "NotFound", Message: strings.Repeat("💥", 200)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			topics := make([]relay.TopicState, 30)
			for i := range topics {
				topics[i] = topic
			}
			b := tableOf(topics...)
			b.more = 170
			text := b.markdown(RelayResult{})
			require.LessOrEqual(t, len(url.QueryEscape(text)), maxAddress+100)
			shown := strings.Count(text, "\n| ") - 1
			require.Positive(t, shown)
			require.Contains(t, text, fmt.Sprintf("… and %d more.", 200-shown), "they need an operator as well")
			require.LessOrEqual(t, len(b.summary()), maxSummary)
		})
	}
	rest := tableOf(relay.TopicState{Topic: "orders"})
	rest.more = 1
	require.Contains(t, rest.markdown(RelayResult{}), "… and 1 more that flow.")
}

func TestSummary_FitsIntoTheLimitOfTemporal(t *testing.T) {
	in := RecoveryInput{Batch: relay.Batch{Topic: strings.Repeat("t", 256)}, Destination: "SNS topic arn:aws:sns:x:1:" + strings.Repeat("d", 256), Error: "NotFound"}
	for _, s := range []string{fitSummary("retry " + topicAndDestination(in)), fitSummary(topicAndDestination(in) + " · " + in.Error)} {
		require.LessOrEqual(t, len(s), 400)
		require.Greater(t, len(s), 300)
	}
}

func TestDetails_WriteDurationsInTheirTwoLargestUnits(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"": 0, "< 1 s": 300 * time.Millisecond, "59 s": 59900 * time.Millisecond, "1 min 0 s": time.Minute,
		"2 h 0 min": 2 * time.Hour, "3 d 4 h": 76 * time.Hour,
	} {
		require.Equal(t, want, age(d))
	}
	require.Equal(t, "1,234,567", count(1_234_567))
	require.Equal(t, "999", count(999))
}
