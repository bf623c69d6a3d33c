package activities

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

var (
	carrierSeeds = flag.Int("carrier.seeds", 12, "how many random lives of carriers to try")
	carrierSeed  = flag.Uint64("carrier.seed", 1, "the first of them")
	carrierWith  = flag.String("carrier.with", "", "happenings that each life has, such as hot,operations")
)

// happenings are what may happen in the life of carriers.
type happenings struct {
	deaths, freezes, outages, replaced bool
	refusals, hangs, stops, operations bool
	joins, seats, flaky, hot           bool
}

// add adds happenings, whose names are separated by commas.
func (h *happenings) add(names string) error {
	all := map[string]*bool{
		"deaths": &h.deaths, "freezes": &h.freezes, "outages": &h.outages, "replaced": &h.replaced,
		"refusals": &h.refusals, "hangs": &h.hangs, "stops": &h.stops, "operations": &h.operations,
		"joins": &h.joins, "seats": &h.seats, "flaky": &h.flaky, "hot": &h.hot,
	}
	for name := range strings.SplitSeq(names, ",") {
		switch does := all[name]; {
		case does != nil:
			*does = true
		case name != "":
			return fmt.Errorf("there is no happening %q", name)
		}
	}
	return nil
}

// TestCarrier_KeepsOrderAndLosesNothingInRandomLives lets several workers and the batches of single topics
// share an outbox while everything happens to them that may.
func TestCarrier_KeepsOrderAndLosesNothingInRandomLives(t *testing.T) {
	for i := range uint64(*carrierSeeds) {
		seed := *carrierSeed + i
		// Each life has about half of what may happen, so that one thing does not hide another.
		draw := rand.New(rand.NewPCG(seed, 1))
		has := func() bool { return draw.IntN(5) < 2 }
		h := happenings{
			deaths: has(), freezes: has(), outages: has(), replaced: has(), refusals: has(), hangs: has(),
			stops: has(), operations: has(), joins: has(), seats: has(), flaky: has(), hot: has(),
		}
		require.NoError(t, h.add(*carrierWith))
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { live(t, seed, h) })
		})
	}
}

func live(t *testing.T, seed uint64, h happenings) {
	w := newWorld(seed)
	w.detours = 0.01
	if w.chance(0.5) { // as by workers of an earlier version
		w.alone = 0
	}
	ctx, stop := context.WithCancel(t.Context())
	var others, producers sync.WaitGroup
	during := 25 * time.Second
	over, cancel := context.WithTimeout(ctx, during)
	defer cancel()

	topics := make([]string, 2+w.pick(8))
	for i := range topics {
		topics[i] = fmt.Sprint("topic-", i)
	}
	policies := map[string]TopicPolicy{}
	if w.chance(0.3) {
		policies[topics[0]] = TopicPolicy{MaxPerSecond: 50}
	}
	cfg := Config{Topics: policies}
	if w.chance(0.5) { // some events are larger than the whole budget
		w.large, cfg.PayloadBudget = 100<<10, 100<<10
	}
	if w.chance(0.5) { // all topics have one destination
		cfg.Publisher = queues{}
	}
	w.along = 0.5
	topic := func() string { // one has most of the traffic
		if w.chance(0.5) {
			return topics[len(topics)-1]
		}
		return topics[w.pick(len(topics))]
	}

	// Producers: each writes keys of its own, one transaction after the other.
	for n := range 6 {
		producers.Go(func() {
			for over.Err() == nil {
				keys := make([]string, 1+w.pick(3))
				for i := range keys {
					keys[i] = fmt.Sprint(n, "-", w.pick(3))
				}
				tx := w.begin(topic(), keys...)
				switch {
				case w.chance(0.02): // a long transaction
					time.Sleep(w.upTo(4 * time.Second))
				case w.chance(0.2):
					time.Sleep(w.upTo(100 * time.Millisecond))
				}
				if w.chance(0.05) {
					w.rollBack(tx)
				} else if w.commit(tx) && h.refusals && w.chance(0.01) {
					w.mu.Lock()
					w.poison[tx.messages[0]] = true
					w.mu.Unlock()
				}
				time.Sleep(w.upTo(120 * time.Millisecond))
			}
		})
	}
	if h.hot { // keys with more events than their destinations accept
		w.keyMost = 3 + w.pick(8)
		for n := range 3 {
			producers.Go(func() {
				for pause(over, w.upTo(8*time.Second)) {
					to := topic()
					for range w.pick(400) {
						w.write(to, fmt.Sprint("hot-", n))
						time.Sleep(w.upTo(10 * time.Millisecond))
					}
				}
			})
		}
	}
	for n := range 2 {
		others.Go(func() { w.batches(ctx, fmt.Sprint("claims-", n)) })
	}

	// Workers.
	var mu sync.Mutex
	var alive []*process
	names := 0
	var sitting sync.WaitGroup
	add := func() {
		mu.Lock()
		defer mu.Unlock()
		names++
		p := w.start(fmt.Sprint("worker-", names), cfg)
		alive = append(alive, p)
		sitting.Go(func() {
			for {
				end, ok := p.sit(ctx, 0)
				if !ok {
					return
				}
				lasts := time.Hour
				if h.seats && over.Err() == nil {
					lasts = w.upTo(15 * time.Second)
				}
				select {
				case <-p.done:
				case <-ctx.Done():
				case <-time.After(lasts):
				}
				end()
				if !pause(ctx, w.upTo(7*time.Second)) {
					return
				}
			}
		})
	}
	some := func() *process {
		mu.Lock()
		defer mu.Unlock()
		if len(alive) == 0 {
			return nil
		}
		return alive[w.pick(len(alive))]
	}
	remove := func(p *process) {
		mu.Lock()
		defer mu.Unlock()
		alive = slices.DeleteFunc(alive, func(o *process) bool { return o == p })
	}
	for range 1 + w.pick(3) {
		add()
	}
	now := func(change func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		change()
	}
	happen := func(does bool, every time.Duration, what func()) {
		if !does {
			return
		}
		others.Go(func() {
			for pause(over, w.upTo(2*every)) {
				what()
			}
		})
	}
	var deaths int
	happen(h.deaths, 8*time.Second, func() {
		if p := some(); p != nil {
			remove(p)
			deaths++
			p.kill()
			w.mu.Lock()
			delete(w.inHand, p.id)
			w.mu.Unlock()
			time.Sleep(w.upTo(3 * time.Second))
			add()
		}
	})
	happen(h.joins, 6*time.Second, func() {
		add()
		time.Sleep(w.upTo(8 * time.Second))
		if p := some(); p != nil {
			remove(p)
			p.end()
		}
	})
	happen(h.freezes, 6*time.Second, func() {
		if p := some(); p != nil {
			thaw := p.freeze()
			time.Sleep(w.upTo(8 * time.Second))
			thaw()
		}
	})
	happen(h.outages, 8*time.Second, func() {
		now(func() { w.away = time.Now().Add(time.Duration(w.rng.Int64N(int64(12 * time.Second)))) })
	})
	happen(h.replaced, 10*time.Second, func() {
		earlier := w.remember()
		time.Sleep(w.upTo(time.Second))
		w.replace(earlier)
	})
	happen(h.refusals, 8*time.Second, func() {
		now(func() { w.broken[topics[w.rng.IntN(len(topics))]] = time.Now().Add(3 * time.Second) })
	})
	happen(h.hangs, 8*time.Second, func() {
		now(func() { w.hanging[topics[w.rng.IntN(len(topics))]] = time.Now().Add(4 * time.Second) })
	})
	happen(h.stops, 5*time.Second, func() {
		topic := topics[w.pick(len(topics))]
		now(func() { w.stopped[topic] = true })
		time.Sleep(w.upTo(4 * time.Second))
		now(func() { delete(w.stopped, topic) })
	})
	happen(h.operations, 3*time.Second, func() {
		var at relay.TopicLane
		now(func() {
			at = relay.TopicLane{Topic: topics[w.rng.IntN(len(topics))], Lane: int16(w.rng.IntN(relay.Lanes))}
			for _, m := range w.dead {
				at = relay.TopicLane{Topic: m.topic, Lane: m.Lane}
			}
		})
		w.redrive(ctx, at)
	})
	if h.flaky {
		now(func() { w.flaky = 0.05 })
	}
	now(func() {
		w.slow = []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond}[w.rng.IntN(3)]
	})

	<-over.Done()
	producers.Wait()
	now(func() {
		w.flaky, w.away = 0, time.Time{}
		clear(w.stopped)
		clear(w.broken)
		clear(w.hanging)
	})
	t.Logf("%+v, %d topics, deaths %d, %d events, of carriers %d, %d repeated, %d lanes set apart, calls %v", h, len(topics), deaths, len(w.arrived),
		w.carried, w.repeats, len(w.apartLog), w.calls)
	w.must(w.waitFor(10*time.Minute, func() bool { return len(w.pending) == 0 }), func() string {
		text := w.rest()
		for _, p := range alive {
			text += "\n" + p.inside()
		}
		return text
	})
	w.must(w.waitFor(time.Minute, func() bool {
		return !slices.ContainsFunc(alive, func(p *process) bool { return p.holdsPayloads() })
	}), func() string { return "a worker without events holds a part of its budget" })
	calm := !h.deaths && !h.freezes && !h.replaced && !h.hangs
	w.must(!calm || w.repeats == 0, func() string { return fmt.Sprint("events were sent again for no reason: ", w.repeats) })
	w.must(w.waitFor(time.Minute, w.isEven), func() string { return fmt.Sprint("the shares are not even: ", w.shares) })
	stop()
	mu.Lock()
	left := slices.Clone(alive)
	mu.Unlock()
	for _, p := range left {
		p.stop()
	}
	for _, p := range left {
		<-p.done
	}
	others.Wait()
	sitting.Wait()
	time.Sleep(timing.StopTimeout + time.Minute) // processes that were killed
	w.ok(t)
}

// isEven reports whether all seated workers have the same number of shares, or one more than others.
func (w *world) isEven() bool {
	shares := map[string]int{}
	for id, row := range w.workers {
		if row.seated && time.Since(row.seen) < timing.WorkerGone {
			shares[id] = 0
		}
	}
	for n, s := range w.shares {
		if _, is := shares[s.worker]; w.live(n) && is {
			shares[s.worker]++
		}
	}
	for _, a := range shares {
		for _, b := range shares {
			if a > b+1 {
				return false
			}
		}
	}
	return len(shares) > 0
}

// bury makes an event a dead letter, like a batch whose destination refuses it.
func (w *world) bury(m *message) {
	delete(w.pending, m.Ref)
	w.dead[m.Ref] = m
	m.dead = true
}

// A batch that has read the page goes on with it after the failover.
func TestWorld_LetsEventsPassARefusalThatAFailoverHasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		refused, read := w.write("orders", "key"), w.write("orders", "key")
		earlier := w.remember()
		w.do(func() { w.bury(refused) })
		w.replace(earlier)
		w.do(func() { w.arrives(read) })
		w.ok(t)

		later := w.write("orders", "key")
		w.do(func() {
			w.arrives(later)
			require.Len(t, w.problems, 1, "it was written afterwards, so the refused event was read before it")
		})
	})
}

func TestWorld_RedrivesInALaneWhoseClaimWasNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		m := w.write("orders", "key")
		at := relay.TopicLane{Topic: m.topic, Lane: m.Lane}
		w.do(func() {
			w.bury(m)
			w.shares[m.Lane] = shareRow{"worker", time.Now().Add(time.Hour)}
			w.lanes[at] = laneRow{claim: "of a process that is gone", until: time.Now().Add(timing.ClaimLease)}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 2*timing.ClaimLease)
		defer cancel()
		w.redrive(ctx, at)
		w.do(func() { require.Contains(t, w.pending, m.Ref) })
	})
}

func TestWorld_RunsOnVirtualTimeOnly(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.seated(t, "a", Config{})
		began, machine := p.clock.Now(), timing.Clock{}.Now()
		for (timing.Clock{}).Now().Boot-machine.Boot < 20*time.Millisecond { // as on a busy machine
		}
		require.Zero(t, p.clock.Since(began))
	})
}
