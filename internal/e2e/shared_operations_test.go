package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// full reports whether tests take the sizes of the promises instead of smaller ones.
func full() bool { return os.Getenv("OUTBOX_TEST_FULL") != "" }

func TestShared_OperationsEndUnderConstantTraffic(t *testing.T) {
	dead, replayed := 1000, 3000
	if full() {
		replayed = 100_000
	}
	w := newWire(t)
	o := w.outbox(3)
	w.refuse("t0", func(body string) fate {
		if strings.HasPrefix(body, "d-") {
			return fate{code: "InvalidMessageContents"}
		}
		return fate{}
	})
	o.write("t1", "r", replayed, 500)
	o.exec(`DELETE FROM outbox.pending`) // as if they were published
	o.work(shared)
	o.work(shared)
	o.schedule()
	o.write("t0", "d", dead, 500)
	o.drained(90 * time.Second)
	require.Equal(t, dead, o.count(`SELECT count(*) FROM outbox.dead_letter`))
	w.refuse("t0", nil)
	o.together()
	s := o.stream(10*time.Millisecond, names(0, 3)...)
	during(2 * time.Second)

	began := time.Now()
	done := commandJSON[operated](o, "dead", "redrive", "t0", "--all", "--by", "ada", "--reason", "a test", "--yes")
	require.EqualValues(t, dead, done.Done)
	w.eventually("t0", "d", dead, 30*time.Second)
	moved := o.lasted("redrive")
	t.Logf("a redrive of %d took %v, and the command with all that it waits for %v", dead, moved, time.Since(began))
	require.Less(t, moved, 3*time.Second)

	began = time.Now()
	done = commandJSON[operated](o, "replay", "t1", "--until", began.UTC().Add(-2*time.Second).Format(time.RFC3339), "--by", "ada", "--reason", "a test", "--yes")
	require.GreaterOrEqual(t, int(done.Done), replayed)
	t.Logf("a replay of %d took %v, and the command with all that it waits for %v", done.Done, o.lasted("replay"), time.Since(began))
	// 100,000 take no longer than with batches of one topic. What does not grow with their number takes a part of ten seconds.
	require.Less(t, o.lasted("replay"), min(161*time.Second, 10*time.Second+161*time.Second*time.Duration(done.Done)/100_000))
	s.stop()
	o.drained(90 * time.Second)
	t.Logf("all had arrived after %v", time.Since(began))
	w.eventually("t1", "r", replayed, time.Second)
	for _, topic := range s.topics {
		s.arrived(w, topic)
	}
	longest, topic := s.worst(w, "t2")
	t.Logf("the slowest event of another topic took %v", longest)
	require.Less(t, longest, 2*time.Second, topic)
}

// lasted is how long the last operation of a kind took, by the clock of the database.
func (o *outbox) lasted(kind string) (took time.Duration) {
	o.t.Helper()
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), `
	    SELECT finished_at - at FROM outbox.operation WHERE kind = $1 ORDER BY id DESC LIMIT 1`, kind).Scan(&took))
	return took
}
