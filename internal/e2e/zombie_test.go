package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// signal sends a signal that does not end a worker.
func (w *worker) signal(s syscall.Signal) {
	w.t.Helper()
	require.NoError(w.t, w.cmd.Process.Signal(s))
}

// with are the messages whose payload has a prefix.
func with(prefix string, messages []types.Message) (found []types.Message) {
	for _, m := range messages {
		if strings.HasPrefix(*m.Body, prefix+"-") {
			found = append(found, m)
		}
	}
	return found
}

// givenAway waits until Temporal has given a silent worker's batch to another.
func (o *outbox) givenAway(c client.Client) {
	o.t.Helper()
	o.someBatch(c, func(a *workflowpb.PendingActivityInfo) bool {
		return a.GetLastFailure().GetTimeoutFailureInfo().GetTimeoutType() == enumspb.TIMEOUT_TYPE_HEARTBEAT
	})
}

// A process that was stopped, as by a hypervisor or a debugger, knows nothing of
// what happened since. When it wakes up, others have its lanes.
func TestWorker_ThatWakesUpPublishesNothingOfOthersAndThenWorksOn(t *testing.T) {
	t.Parallel()
	t.Run("Batches", func(t *testing.T) {
		// Requests of ten that were under way, of four batches.
		wakesUp(t, perTopic, 4*4*10, func(o *outbox) { o.givenAway(testenv.Temporal(t)) })
	})
	t.Run("Shares", func(t *testing.T) {
		// The events in hand.
		wakesUp(t, shared, 1000, func(o *outbox) { o.sharesBecome(20*time.Second, 16) })
	})
}

func wakesUp(t *testing.T, mode string, repeats int, given func(o *outbox)) {
	n, keys := many()/4, 500
	standard, fifo := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+standard.name+"}\n  ledger: {sqs: "+fifo.name+"}\n")
	database, temporal := newProxy(t, hostOf(t, o.url)), newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	zombie := o.work(mode, "DATABASE_URL="+database.inFrontOf(t, o.url), "TEMPORAL_ADDRESS="+temporal.address)
	other := o.work(mode)
	o.schedule()
	if mode == shared {
		o.sharesBecome(20*time.Second, 8, 8)
	}
	o.write("orders", "e", n, keys)
	o.write("ledger", "e", n, keys)
	testenv.Eventually(t, 30*time.Second, func() error {
		if o.pending() > 2*n*9/10 {
			return errNotYet
		}
		return nil
	})
	require.Positive(t, o.pending(), "it is in full flow")

	zombie.signal(syscall.SIGSTOP)
	given(o)
	o.drained(60 * time.Second)
	before := standard.receive(n, 60*time.Second)
	require.Len(t, bodies(before), n, "nothing is lost")
	require.LessOrEqual(t, published(before)-n, inFlight)
	inOrder(t, fifo, "e", n, keys, 60*time.Second)

	// It wakes up in full flow, where there is something that it must not touch, and
	// nobody tells it at once what is still its own.
	database.set(silent)
	temporal.set(silent)
	o.write("orders", "late", n/2, keys)
	o.write("ledger", "late", n/2, keys)
	zombie.signal(syscall.SIGCONT)
	time.Sleep(2 * time.Second) // for what must not happen
	database.set(whole)
	temporal.set(whole)
	o.drained(60 * time.Second)
	after := standard.receive(n/2, 60*time.Second)
	require.Len(t, bodies(with("late", after)), n/2, "something was settled that nobody published")
	again := published(with("e", after))
	t.Logf("%d came twice, and %d once it woke up", published(before)-n, again)
	require.LessOrEqual(t, again, repeats)
	inOrder(t, fifo, "late", n/2, keys, 60*time.Second)

	other.stop()
	o.write("orders", "alone", 100, keys)
	o.drained(30 * time.Second)
	requireOnce(t, standard.receive(100, 30*time.Second), "alone", 100)
	require.NoError(t, zombie.ready("ready"))
	o.unleased()
}
