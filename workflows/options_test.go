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
)

// sendGrace is how much longer than BatchFor a batch may send (activities).
const sendGrace = time.Second

func TestTheDurationsRelateAsThePromisesNeed(t *testing.T) {
	for _, c := range []struct {
		why          string
		less, longer time.Duration
	}{
		{"the next run is always waiting for the one that runs", ScheduleEvery, RunFor},
		{"a run drains and ends before its timeout", RunFor + DrainFor + heartbeatTimeout, RunTimeout},
		{"a claim's wait ends before its activity's timeout", ClaimWait, claimTimeout},
		{"a batch in retry keeps its lanes over the longest backoff", retryMost + heartbeatTimeout, Lease},
		{"a worker that died is replaced before its lease ends", heartbeatTimeout + retryFirst, Lease},
		{"a batch that gets through ends before it is cancelled", time.Second, DrainFor},
		{"a batch stays for a part of its time", BatchStay, BatchFor},
		{"an attempt's timeout leaves room for its batch", BatchFor + 15*time.Second, publishTimeout},
		{"what an attempt sends stays within FIFO's deduplication", publishTimeout + Lease, DeduplicationWindow},
		{"an unbegun claim is short", ClaimLease, Lease},
		{"a recovery renews its pause before it ends, with a request that hangs", recoveryMost + 2*15*time.Second, RecoveryPause},
		{"a batch whose worker died is taken over before its topic is claimed again", heartbeatTimeout + retryFirst, HandoverPause},
		{"a run of maintenance has time for a retry", upkeepTimeout + retryMost, MaintenanceTimeout},
		{"a run of maintenance ends before the next", MaintenanceTimeout, MaintenanceEvery},
		{"a batch that takes its full time is not late", BatchFor + sendGrace, BatchLate},
	} {
		if c.less >= c.longer {
			t.Errorf("%s: %v is not less than %v", c.why, c.less, c.longer)
		}
	}
}

// Histories hold these names: a change breaks every run that is under way.
func TestNamesInHistoriesArePermanent(t *testing.T) {
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
		"ClaimBatches", "Discard", "DropExpiredPartitions", "EndOperation", "EnsurePartitions", "OutboxStats", "PublishBatch",
		"Redrive", "ReleaseBatch", "Replay", "ResumeTopic",
	}, names)
	require.Equal(t, "park", UpdatePark)
	require.Contains(t, names, PublishActivity)
	require.Equal(t, "outbox-recovery/orders", RecoveryID("outbox-relay", "orders"))
	require.Equal(t, "outbox-recovery/other/orders", RecoveryID("other", "orders"), "relays do not meet in a namespace")
	require.Equal(t, "outbox-replay/orders/", OperationIDPrefix("outbox-relay", relay.Replay, "orders"))
	require.Equal(t, "outbox-replay/other/orders/", OperationIDPrefix("other", relay.Replay, "orders"))
	require.Equal(t, "outbox-relay", DefaultTaskQueue)
}

func TestABatchReadsWellInTheUI(t *testing.T) {
	all := []int16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	require.Equal(t, "orders · 500 events · lanes 0-15", summary(relay.Batch{Topic: "orders", Events: 500, Lanes: all}))
	require.Equal(t, "audit · 1 event · lane 7", summary(relay.Batch{Topic: "audit", Events: 1, Lanes: []int16{7}}))
}
