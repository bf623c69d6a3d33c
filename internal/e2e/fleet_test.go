package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

const (
	// beforeShares is the last version whose workers know no shares.
	beforeShares = "ff41067d23862189d7020628a75be8a7dde788d0"
	// sharesOff is a version that knows shares, and whose workers hold none by default.
	sharesOff = "03fdd0b7aa4936e9e13c171bfa174f48625ef5f0"
	// fleetTopics is how many topics have traffic, and fleetRate how many events of each in a second.
	fleetTopics, fleetRate = 20, 4
	// gapMixed is how long an event of any topic may wait while two versions run together, and
	// replace each other.
	gapMixed = 12 * time.Second
)

// mixedFor is how long two versions run together, each way.
func mixedFor() time.Duration {
	if os.Getenv("OUTBOX_TEST_FULL") != "" {
		return 10 * time.Minute
	}
	return 6 * time.Second
}

// rampByAPI gives a part of the workflows to a version that is not current.
func (o *outbox) rampByAPI(build string, percentage float32) {
	o.t.Helper()
	testenv.Eventually(o.t, 30*time.Second, func() error {
		_, err := testenv.Temporal(o.t).WorkerDeploymentClient().GetHandle(o.queue).
			SetRampingVersion(o.t.Context(), client.WorkerDeploymentSetRampingVersionOptions{BuildID: build, Percentage: percentage})
		return err
	})
}

// An update of a fleet and the way back: two workers of one version, then both versions together for
// a while, and then two workers of the other one.
func TestFleet_OfTwoVersionsPublishesAllTopicsInTimeThereAndBack(t *testing.T) {
	for _, c := range []struct {
		name, old string
		versioned bool
	}{
		{"BeforeShares", beforeShares, false},
		{"BeforeSharesVersioned", beforeShares, true},
		{"SharesOff", sharesOff, false},
		{"SharesOffVersioned", sharesOff, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Getenv("OUTBOX_TEST_FULL") == "" && c.versioned != (c.old == sharesOff) {
				t.Skip("a half of the fleets is for make fleets")
			}
			t.Parallel()
			old := build(t, c.old)
			o, queues := sharedOutbox(t, fleetTopics)
			to := map[string]queue{}
			for i, q := range queues {
				to[fmt.Sprint("t", i)] = q
			}
			begin := func(programs, version string, env ...string) *worker {
				was := o.programs
				defer func() { o.programs = was }()
				o.programs = programs
				if c.versioned {
					env = append(env, o.version(version)...)
					return o.startWorker(env...)
				}
				return o.work(env...)
			}
			one := []*worker{begin(old, "old", perTopic), begin(old, "old", perTopic)}
			if c.versioned {
				o.promote("old")
			}
			if os.Getenv("OUTBOX_TEST_FULL") != "" {
				o.schedule()
			} else {
				o.schedule("--every", "2s", "--run-for", "10s")
			}
			tr := o.trafficOf(fleetRate, to)
			tr.passes(5 * fleetTopics)
			first := time.Now()

			// There.
			two := []*worker{begin(programs, "new", shared), begin(programs, "new", shared)}
			if c.versioned {
				o.rampByAPI("new", 50)
			}
			tr.lasts(mixedFor())
			t.Logf("%v at most while the new version came", tr.longest(first).Round(time.Millisecond))
			if c.versioned {
				o.promote("new")
			}
			began := time.Now()
			stopAll(one...)
			o.sharesBecome(20*time.Second, 8, 8)
			tr.passes(5 * fleetTopics)
			t.Logf("%v at most when the old version left", tr.longest(began).Round(time.Millisecond))

			// And back.
			began = time.Now()
			one = []*worker{begin(old, "old", perTopic), begin(old, "old", perTopic)}
			if c.versioned {
				o.rampByAPI("old", 50)
			}
			tr.lasts(mixedFor())
			t.Logf("%v at most while the old version came back", tr.longest(began).Round(time.Millisecond))
			if c.versioned {
				o.promote("old")
			}
			began = time.Now()
			stopAll(two...)
			tr.passes(10 * fleetTopics)
			t.Logf("%v at most when the new version left", tr.longest(began).Round(time.Millisecond))
			require.Zero(t, tr.end(), "repetitions")
			require.Less(t, tr.longest(first), gapMixed)
			for _, r := range o.runs(t.Context(), testenv.Temporal(t)) {
				require.Contains(t, []string{"Completed", "Running", "ContinuedAsNew"}, r.status.String(), "no run is replaced")
			}
			stopAll(one...)
		})
	}
}
