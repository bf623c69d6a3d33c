package workflows

import (
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func TestDurations_RelateAsTheGuaranteesNeed(t *testing.T) {
	for _, c := range []struct {
		why          string
		less, longer time.Duration
	}{
		{"the next run is always waiting when a run ends", ScheduleEvery, RunFor},
		{"a run drains and ends before its timeout", RunFor + DrainFor + timing.HeartbeatTimeout, RunTimeout},
		{"a claim's wait ends before its activity's timeout", ClaimWait, claimTimeout},
		{"a batch in retry keeps its lanes over the longest backoff", timing.RetryPauseMost + timing.HeartbeatTimeout, timing.Lease},
		{"a batch keeps its lanes while the database is tried again", timing.DatabaseRetryPauseMost + timing.HeartbeatTimeout, timing.Lease},
		{"the next attempt begins before the lease of a dead worker ends", timing.HeartbeatTimeout + timing.RetryPauseFirst, timing.Lease},
		{"two renewals in a row may fail", 2*timing.Lease/timing.RenewalsPerLease + timing.StatementTimeout, timing.Lease - timing.LeaseMargin},
		{"a request is over before its lease ends", timing.RequestTimeout, timing.Lease - timing.LeaseMargin},
		{"the lease of a new claim is short", timing.ClaimLease, timing.Lease},
		{"a stalled attempt notices the stall before Temporal starts the next attempt", timing.StallLimit, timing.HeartbeatTimeout},
		{"an attempt that heartbeats does not count as stalled", 2 * timing.HeartbeatEvery, timing.StallLimit},
		{"heartbeats arrive in time", timing.HeartbeatEvery + timing.HeartbeatThrottle, timing.HeartbeatTimeout},
		{"a claim's heartbeats arrive in time", timing.ClaimHeartbeatEvery + timing.HeartbeatThrottle, timing.HeartbeatTimeout},
		{"a silent database is an error before a heartbeat is missed", timing.StatementTimeout, timing.HeartbeatTimeout},
		{"an attempt hands over its unsettled acknowledgements before its lease ends", timing.RequestTimeout + timing.SettlePatience, timing.Lease - timing.Lease/timing.RenewalsPerLease},
		{"acknowledgements are settled before the next attempt loads their lanes", timing.SettleTry + 2*timing.SettleEvery, timing.SettleGrace},
		{"a connection attempt to a silent host ends before a statement would", timing.ConnectTimeout, timing.StatementTimeout},
		{"a statement that moves many events has a second try", 2 * timing.LongTimeout, operateTimeout},
		{"an attempt that waits for acknowledgements does not count as stalled", timing.SettleGrace, timing.StallLimit},
		{"an operation reserves lanes until their acknowledgements are settled", timing.SettleGrace, timing.ClaimLease},
		{"a batch that its destination accepts ends before it is cancelled", timing.SendGrace, DrainFor},
		{"a batch stays for a part of its time", BatchStay, timing.BatchFor},
		{"an attempt's timeout leaves room for its batch", timing.SettleGrace + timing.BatchFor + timing.SendGrace + timing.RequestTimeout + timing.SettlePatience, timing.PublishTimeout},
		{"all requests of an attempt are within the deduplication window of FIFO destinations", timing.PublishTimeout + timing.Lease, timing.DeduplicationWindow},
		{"claims leave the topic of a recovery out until the next attempt, even if a request hangs", timing.RecoveryPauseMost + 2*timing.RequestTimeout, timing.RecoveryHold},
		{"a listing of SNS topics is kept until the next attempt, even if an attempt dies", timing.RecoveryPauseMost + timing.HeartbeatTimeout + timing.RequestTimeout, timing.ListingAge},
		{"a batch whose worker died is taken over before its topic is claimed again", timing.HeartbeatTimeout + timing.RetryPauseFirst, timing.HandoverHold},
		{"a hold without a recovery is found before it would expire", 2 * timing.HoldsEvery, timing.RecoveryHold - timing.HandoverHold},
		{"a refusal counts on through the longest backoff and a request that hangs", timing.RetryPauseMost + 2*timing.RequestTimeout, timing.RefusalGap},
		{"a failure of a recovery is shown until its next attempt has ended", timing.PublishTimeout, timing.FailureStale},
		{"a claim lasts long enough to be handed out again", timing.ClaimHandOut, timing.ClaimLease},
		{"a frozen operation gives its lanes back before a lease ends", timing.MoveStall, timing.Lease / timing.RenewalsPerLease},
		{"a run of maintenance has time for a retry", maintenanceStepTimeout + timing.RetryPauseMost, MaintenanceTimeout},
		{"a run of maintenance ends before the next", MaintenanceTimeout, MaintenanceEvery},
		{"a claim that leaves topics without a route out ends early", timing.RouteWait, ClaimWait},
		{"a topic without a route is tried again before claims take it", timing.RouteRetryPauseMost + 2*timing.RequestTimeout, timing.RecoveryHold},
		{"a batch that takes its full time is not slow", timing.SettleGrace + timing.BatchFor + timing.SendGrace, timing.BatchSlow},
		{"a seat's heartbeats arrive in time, even if two are lost", 2*timing.SeatHeartbeat + timing.HeartbeatThrottle, timing.SeatHeartbeatTimeout},
		{"a worker keeps its shares until the next run, even if a request hangs", DrainFor + timing.HeartbeatThrottle + timing.HeartbeatEvery + timing.RequestTimeout, timing.SeatGrace},
		{"the next attempt of a seat fits in before the run cancels it", timing.RetryPauseFirst, seatSpare},
		{"a run ends before its timeout, even if a seat's worker died", RunFor + DrainFor + time.Second, RunTimeout},
		{"a worker that stops waits for its requests", timing.RequestTimeout + timing.SettlePatience, timing.StopTimeout},
		{"a worker that stops ends its polls in time", timing.DrainQuiet + timing.DrainSettle, timing.DrainMost},
		{"a worker that stops can try to settle", timing.SettleTry, timing.ShutdownTimeout},
	} {
		if c.less >= c.longer {
			t.Errorf("%s: %v is not less than %v", c.why, c.less, c.longer)
		}
	}
	if stopped := timing.DrainMost + timing.StopTimeout + timing.ShutdownTimeout; stopped > timing.StopsWithin {
		t.Errorf("a worker needs %v to stop, and it promises %v", stopped, timing.StopsWithin)
	}
}

// Histories hold these names: a change breaks every run that is under way.
func TestReplay_NamesInHistoriesArePermanent(t *testing.T) {
	name := func(f any) string {
		full := strings.TrimSuffix(runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name(), "-fm")
		return full[strings.LastIndex(full, ".")+1:]
	}
	require.Equal(t, "Relay", name(Relay))
	require.Equal(t, "Recovery", name(Recovery))
	require.Equal(t, "Maintenance", name(Maintenance))
	require.Equal(t, "Operation", name(Operation))
	var names []string
	kind := reflect.TypeFor[*activities.Activities]()
	for i := range kind.NumMethod() {
		names = append(names, kind.Method(i).Name)
	}
	require.Equal(t, []string{
		"AskOperation", "ClaimBatches", "Discard", "DropExpiredPartitions", "EndOperation", "EnsurePartitions", "FollowOperation", "OutboxStats", "PublishBatch",
		"RecoveryRuns", "Redrive", "ReleaseBatch", "Replay", "ResumeTopic",
	}, names)
	require.Equal(t, "park", UpdatePark)
	require.Contains(t, names, PublishActivity)
	require.Equal(t, "outbox-recovery/orders", RecoveryID("outbox-relay", "orders"))
	require.Equal(t, "outbox-recovery/other/orders", RecoveryID("other", "orders"), "relays do not meet in a namespace")
	require.Equal(t, "outbox-replay/orders/", OperationIDPrefix("outbox-relay", relay.Replay, "orders"))
	require.Equal(t, "outbox-replay/other/orders/", OperationIDPrefix("other", relay.Replay, "orders"))
	require.Equal(t, "outbox-relay", DefaultTaskQueue)
	require.Equal(t, "topic-in-id", changeTopicInID)
	require.Equal(t, "short-history", changeShortHistory)
}

func TestSummary_NamesTopicEventsAndLanesOfABatch(t *testing.T) {
	all := []int16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	require.Equal(t, "orders · 500 events · lanes 0-15", summary(relay.Batch{Topic: "orders", Events: 500, Lanes: all}))
	require.Equal(t, "audit · 1 event · lane 7", summary(relay.Batch{Topic: "audit", Events: 1, Lanes: []int16{7}}))
}
