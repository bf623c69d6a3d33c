package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// A topic leaves its shares and comes back again and again, and the worker that has it is killed meanwhile.
func TestShared_AWorkerMayBeKilledWhileATopicLeavesAndComesBack(t *testing.T) {
	w := newWire(t)
	o := w.outbox(4)
	isDead := func(topic string, n int) bool { return topic == "t0" && n%150 == 0 }
	w.refuse("t0", func(body string) fate {
		if n, ok := numberIn(body, "e"); ok && isDead("t0", n) {
			return fate{code: "InvalidMessageContents"}
		}
		return fate{}
	})
	first, second := o.work(shared), o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 8, 8)
	s := o.stream(5*time.Millisecond, names(0, 4)...)
	s.isDead = isDead
	const isApart, isClaimed = `apart AND claim_id IS NULL`, `apart AND claim_id IS NOT NULL`
	kills := 0
	for _, moments := range [][]string{{isApart}, {isClaimed}, {isClaimed, isApart}} {
		// If no worker takes a share in time, batches take its lanes. The death of a batch is noticed later.
		o.until(30*time.Second, `SELECT count(*) FROM outbox.lane WHERE topic <> 't0' AND claim_id IS NOT NULL`, "lanes of other topics have a batch")
		var pid int
		for _, moment := range moments {
			testenv.Eventually(t, 20*time.Second, func() error {
				return o.db.QueryRow(t.Context(), `
				    SELECT split_part(split_part(w.name, '/', 2), ' ', 1)::int
				    FROM outbox.lane l JOIN outbox.share s USING (lane) JOIN outbox.worker w ON w.id = s.worker
				    WHERE `+moment+` LIMIT 1`).Scan(&pid)
			})
		}
		if pid != first.cmd.Process.Pid {
			first, second = second, first
		}
		require.Equal(t, pid, first.cmd.Process.Pid)
		first.kill()
		kills++
		first = o.work(shared)
		// The dead worker counts as seen for some seconds more.
		o.until(20*time.Second, fmt.Sprintf(`SELECT count(*) FROM outbox.share s JOIN outbox.worker w ON w.id = s.worker
		    WHERE split_part(split_part(w.name, '/', 2), ' ', 1)::int = %d`, pid), "shares belong to the dead worker")
		o.sharesBecome(20*time.Second, 8, 8)
		// A second death while the first one's lanes wait would make them wait twice.
		o.until(20*time.Second, `SELECT count(*) FROM outbox.pending WHERE topic <> 't0' AND created_at < now() - interval '1 second'`, "events wait")
	}
	s.stop()
	o.drained(60 * time.Second)
	repeats := 0
	for _, topic := range s.topics {
		s.arrived(w, topic)
		repeats += w.repeats(topic)
	}
	require.Equal(t, s.written()/150, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	longest, topic := s.worst(w, "t1", "t2", "t3")
	t.Logf("%d of %d events were sent again after %d deaths; the slowest of another topic took %v (%s)",
		repeats, s.written()*len(s.topics), kills, longest, topic)
	require.LessOrEqual(t, repeats, kills*inHand)
	require.Less(t, longest, 10*time.Second, topic)
	// A lane whose attempt died stays apart until the end of that attempt's lease.
	o.togetherWithin(timing.Lease + 30*time.Second)
}
