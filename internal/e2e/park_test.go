package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// parkedJSON is what recover prints as JSON.
type parkedJSON struct {
	WorkflowID, Outcome                 string
	Operation, Matched, Dead, Published int
	Pending                             int
	DryRun, Joined                      bool
}

// chattyDenial refuses what is published, and has services write to all lanes of the
// topic orders whenever somebody tries, for as long as they are busy.
type chattyDenial struct {
	o *outbox

	mu      sync.Mutex
	busy    bool
	written int
}

// keep has services be busy, or not any more: then nothing more is written.
func (d *chattyDenial) keep(busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = busy
}

func (d *chattyDenial) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	if d.busy {
		_, err := d.o.db.Exec(context.Background(), `INSERT INTO outbox.event (topic, key, type, payload)
		    SELECT 'orders', CASE WHEN i % 5 = 0 THEN 'key-' || i % 50 ELSE 'new-' || i END, 'T', 'e-' || i
		    FROM generate_series($1::int + 1, $1::int + 50) i`, d.written)
		if err == nil {
			d.written += 50
		}
	}
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = io.WriteString(w, `{"__type":"com.amazonaws.sqs#KmsDisabled","message":"The key is disabled."}`)
}

// Services go on writing to the very keys that are given up: parking ends all the same,
// what they write meanwhile is not given up with the rest, and after a redrive each key
// has come in order.
func TestPark_EndsWhileServicesWriteAndARedriveKeepsEachKeysOrder(t *testing.T) {
	t.Parallel()
	const before = 200
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+", onPoison: block}\n")
	c := testenv.Temporal(t)
	aws, denial := newAWSProxy(t), &chattyDenial{o: o, written: before}
	aws.answer(q.name, denial.ServeHTTP)
	o.work("AWS_ENDPOINT_URL=" + aws.url)
	o.schedule()
	o.write("orders", "e", before, 50)
	o.recovering(c, "orders")
	denial.keep(true)

	dry := commandJSON[parkedJSON](o, "recover", "orders", "--park", "--dry-run")
	require.True(t, dry.DryRun)
	require.Positive(t, dry.Matched)
	require.GreaterOrEqual(t, dry.Pending, dry.Matched)
	require.GreaterOrEqual(t, dry.Pending, before)
	require.Zero(t, o.count(`SELECT (SELECT count(*) FROM outbox.dead_letter) + (SELECT count(*) FROM outbox.operation)`), "nothing was changed")

	parked := commandJSON[parkedJSON](o, "recover", "orders", "--park", "--yes", "--by", "ada", "--reason", "their key is disabled", "--wait", "30s")
	denial.keep(false)
	written := o.count(`SELECT count(*) FROM outbox.event`)
	require.GreaterOrEqual(t, parked.Dead, dry.Matched, "all of its batch")
	require.Less(t, parked.Dead, written, "and not what is written meanwhile")
	require.Positive(t, parked.Pending)
	require.Contains(t, parked.Outcome, fmt.Sprintf("parked: 0 published, %d dead letters; %d events of the topic are pending and tried next", parked.Dead, parked.Pending))
	require.Equal(t, 1, o.count(fmt.Sprintf(`SELECT count(*) FROM outbox.operation WHERE id = %d AND kind = 'recover-park' AND by = 'ada'
	    AND reason = 'their key is disabled' AND finished_at > at AND matched >= %d AND done = %d AND outcome = 'parked: 0 published, %[3]d dead letters'`,
		parked.Operation, dry.Matched, parked.Dead)), "who, when, why, and what came of it")
	o.recovering(c, "orders") // of what was not given up

	aws.answer(q.name, nil)
	o.ended(c, "orders")
	// What comes behind a dead letter of its key has become one too.
	o.drained(time.Minute)
	for o.count(`SELECT count(*) FROM outbox.dead_letter`) > 0 {
		commandJSON[operated](o, "dead", "redrive", "orders", "--all", "--by", "ada", "--reason", "the key is back", "--yes", "--no-wait")
		o.drained(time.Minute)
	}
	got := q.receive(written, time.Minute)
	requireOnce(t, got, "e", written)
	ascending(t, got, "e")
}
