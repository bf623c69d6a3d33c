package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// A redrive that only moves rows has done nothing yet: the destination may refuse all of
// them again.
func TestRedriveAndReplay_SayHowManyArrivedAndHowManyDiedAgain(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	o.schedule()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'k' || n, 'Tested', E'bell \x07' FROM generate_series(1, 2) n`)
	o.drained(30 * time.Second)
	require.Equal(t, 2, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	redrive := func(more ...string) []string {
		return append([]string{"dead", "redrive", "orders", "--all", "--by", "ada", "--reason", "a test", "--yes"}, more...)
	}

	r := o.command(redrive()...)
	require.Equal(t, 1, r.status, "they died again: %s%s", r.out, r.err)
	require.Contains(t, r.out, "done: 2 dead letters of orders pending again\n0 published, 0 pending, 2 dead again\n"+
		"  dead: 2 with the code InvalidCharacter: payload has U+0007 at byte 5\n")
	require.Contains(t, r.err, "2 of 2 events of orders became dead letters: see")

	type followed struct {
		Done      int
		Outcome   string
		Delivered struct {
			Published, Pending, Dead int
			Causes                   []struct {
				Code, Message string
				Events        int
			}
			Why string
		}
	}
	var told followed
	r = o.command(redrive("--json")...)
	require.Equal(t, 1, r.status)
	require.NoError(t, json.Unmarshal([]byte(r.out), &told), r.out)
	require.Equal(t, 2, told.Done)
	require.Equal(t, "done", told.Outcome)
	require.Equal(t, 2, told.Delivered.Dead)
	require.Equal(t, 2, told.Delivered.Causes[0].Events)

	r = o.command(redrive("--no-wait")...)
	require.Zero(t, r.status, r.err)
	require.Equal(t, "done: 2 dead letters of orders pending again\n", r.out)
	o.drained(30 * time.Second)

	o.deadBesideRelay(3)
	r = o.command(redrive()...)
	require.Equal(t, 1, r.status)
	require.Contains(t, r.out, "3 published, 0 pending, 2 dead again")
	require.Len(t, q.receive(3, 30*time.Second), 3)
	o.starter("dead", "discard", "orders", "--all", "--by", "ada", "--reason", "a test", "--yes")

	o.deadBesideRelay(4)
	o.starter("pause", "orders", "--by", "bob", "--reason", "their deploy")
	r = o.command(redrive("--wait", "1s")...)
	require.Equal(t, 1, r.status)
	require.Contains(t, r.out, "0 published, 4 pending, 0 dead again\n  pending: bob has paused the topic: their deploy\n")
	require.Contains(t, r.err, "4 of 4 events of orders are still pending after 1s")
	o.starter("resume", "orders", "--by", "bob", "--reason", "deployed")
	o.drained(30 * time.Second)
	require.Len(t, q.receive(4, 30*time.Second), 4)

	told = commandJSON[followed](o, "replay", "orders", "--key", "key-1", "--by", "ada", "--reason", "a test", "--yes")
	require.Positive(t, told.Done)
	require.Equal(t, told.Done, told.Delivered.Published)
	require.Len(t, q.receive(told.Done, 30*time.Second), told.Done)
}

// deadBesideRelay makes n dead letters of the topic orders that were never pending for
// others, so that a relay that runs does not publish them.
func (o *outbox) deadBesideRelay(n int) {
	o.t.Helper()
	o.exec(fmt.Sprintf(`
		INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'key-' || n, 'Tested', 'e-' || gen_random_uuid() FROM generate_series(1, %d) n;
		INSERT INTO outbox.lane (topic, lane) SELECT DISTINCT topic, lane FROM outbox.pending ON CONFLICT DO NOTHING;
		WITH gone AS (DELETE FROM outbox.pending RETURNING topic, lane, id, created_at, bytes)
		INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id, key, operation)
		SELECT g.topic, g.lane, g.id, g.created_at, g.bytes, 'Poison', 'x', 1, 'outbox-recovery/orders', e.key, 0
		FROM gone g JOIN outbox.event e USING (id, created_at)`, n))
}
