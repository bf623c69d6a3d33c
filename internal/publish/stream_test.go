package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/publish/limit"
	"github.com/temporal-outbox/relay/internal/relay"
)

// addressed is a stub with an address, because each address has its own bound.
type addressed struct {
	*stub
	address string
}

func (a addressed) Properties() destination.Properties {
	p := a.stub.Properties()
	p.Address = a.address
	return p
}

// stubs routes each topic to its stub. A stub of two topics is one destination.
func stubs(to map[string]*stub) *Publisher {
	p := &Publisher{cfg: Config{}.withDefaults(), routes: make(map[string]*cachedRoute)}
	for topic, s := range to {
		s.limit = 1000
		c := newCachedRoute(Route{Topic: topic, Ordered: s.ordered, Limit: s.limit})
		c.open, c.next = addressed{s, fmt.Sprintf("%p", s)}, time.Now().Add(time.Hour)
		p.routes[topic] = c
	}
	return p
}

// diary is what a sender reports.
type diary struct {
	mu       sync.Mutex
	outcomes map[string]map[int64]*relay.PublishError
	answered map[string]int // events of requests that are over
	dropped  map[string]int
	writing  atomic.Bool
	wrong    error
}

func newDiary() *diary {
	return &diary{outcomes: map[string]map[int64]*relay.PublishError{}, answered: map[string]int{}, dropped: map[string]int{}}
}

func (d *diary) request() relay.SenderRequest {
	return relay.SenderRequest{
		Report: func(topic string, outcomes []relay.Outcome) {
			defer d.write()()
			if d.outcomes[topic] == nil {
				d.outcomes[topic] = map[int64]*relay.PublishError{}
			}
			for _, o := range outcomes {
				if _, is := d.outcomes[topic][o.ID]; is {
					d.wrong = fmt.Errorf("event %d of %s has two outcomes", o.ID, topic)
				}
				d.outcomes[topic][o.ID] = o.Err
			}
		},
		Answered: func(topic string, a relay.Answer) {
			defer d.write()()
			d.answered[topic] += a.Events
		},
		Dropped: func(topic string) {
			defer d.write()()
			d.dropped[topic]++
		},
	}
}

// write notes whether two functions of the request run at once.
func (d *diary) write() (done func()) {
	alone := d.writing.CompareAndSwap(false, true)
	d.mu.Lock()
	if !alone {
		d.wrong = errors.New("two functions were called at once")
	}
	return func() { d.mu.Unlock(); d.writing.Store(false) }
}

// of are the outcomes of a topic.
func (d *diary) of(topic string) map[int64]*relay.PublishError {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.outcomes[topic])
}

func (d *diary) drops(topic string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dropped[topic]
}

// acknowledged are the ids of a topic's acknowledged events, ascending.
func (d *diary) acknowledged(topic string) (ids []int64) {
	for id, err := range d.of(topic) {
		if err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// seen are the ids of the events that a stub was sent, the number of its requests, and how many of
// them were in flight at once.
func (s *stub) seen() (sent []int64, requests, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent), s.requests, s.most
}

func (s *stub) now() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight
}

func (s *stub) ids() []int64 { sent, _, _ := s.seen(); return sent }

func (s *stub) calls() int { _, requests, _ := s.seen(); return requests }

func (s *stub) atOnce() int { _, _, most := s.seen(); return most }

func ids(first, n int) (all []int64) {
	for i := range n {
		all = append(all, int64(first+i))
	}
	return all
}

func slow(d time.Duration) func(context.Context, []*relay.Event) answer {
	return func(context.Context, []*relay.Event) (a answer) { time.Sleep(d); return a }
}

func closeSender(t testing.TB, s relay.Sender) {
	require.NoError(t, s.Close(context.Background()))
}

func TestSender_EveryEventHasOneOutcomeUnlessItsTopicIsDropped(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		topics := map[string]*stub{}
		failing := map[string]map[int64]bool{}
		for i := range rapid.IntRange(1, 6).Draw(t, "topics") {
			topic := fmt.Sprint("topic-", i)
			failing[topic] = rapid.MapOfN(rapid.Int64Range(1, 200), rapid.Just(true), 0, 3).Draw(t, "failing")
			divided := rapid.Bool().Draw(t, "divided")
			topics[topic] = &stub{ordered: rapid.Bool().Draw(t, "ordered"), send: func(_ context.Context, events []*relay.Event) (a answer) {
				time.Sleep(time.Duration(len(events)) * time.Millisecond)
				for i, ev := range events {
					switch {
					case !failing[topic][ev.ID]:
					case divided:
						return failAll(errorcode.New("InvalidParameter", "no"))
					default:
						a[i] = errRejected
					}
				}
				return a
			}}
		}
		names := slices.Sorted(maps.Keys(topics))
		type step struct {
			topic string
			n     int // events; 0: drop it
			pause time.Duration
		}
		var steps []step
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			steps = append(steps, step{
				rapid.SampledFrom(names).Draw(t, "topic"),
				rapid.SampledFrom([]int{0, 1, 1, 7, 50, 120}).Draw(t, "n"),
				rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, 25 * time.Millisecond, time.Minute}).Draw(t, "pause"),
			})
		}
		keys := int64(rapid.IntRange(1, 40).Draw(t, "keys"))
		key := func(id int64) string { return fmt.Sprint(id * 31 % keys) }
		d := newDiary()
		added, drops := map[string]int{}, map[string]int{}
		gone := map[string]map[int64]bool{} // may have no outcome, because the topic was dropped
		var held, backlog int
		synctest.Test(outer, func(*testing.T) {
			s := stubs(topics).Open(d.request())
			for _, step := range steps {
				if step.n == 0 {
					s.Drop(step.topic)
					drops[step.topic]++
					if gone[step.topic] == nil {
						gone[step.topic] = map[int64]bool{}
					}
					for id := range added[step.topic] {
						gone[step.topic][int64(id+1)] = true
					}
					// Until it is dropped, nothing may be added.
					for synctest.Wait(); d.drops(step.topic) < drops[step.topic]; synctest.Wait() {
						time.Sleep(time.Millisecond)
					}
				} else {
					s.Add(step.topic, numbered(added[step.topic]+1, step.n, key))
					added[step.topic] += step.n
				}
				time.Sleep(step.pause)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			backlog = s.Backlog()
			closeSender(outer, s)
		})
		if d.wrong != nil || backlog != 0 {
			t.Fatalf("%v, a backlog of %d", d.wrong, backlog)
		}
		for topic, s := range topics {
			if s.ordered && s.clash != nil {
				t.Fatal(s.clash)
			}
			if d.drops(topic) != drops[topic] {
				t.Fatalf("%s was dropped %d times of %d", topic, d.drops(topic), drops[topic])
			}
			blocked := map[string]bool{}
			for id := int64(1); id <= int64(added[topic]); id++ {
				err, ok := d.of(topic)[id]
				switch {
				case gone[topic][id]:
					continue // a later Drop forgets a blocked key, too
				case s.ordered && blocked[key(id)]:
					held++
					if ok {
						t.Fatalf("event %d of %s overtook a failed one of its key", id, topic)
					}
				case !ok:
					t.Fatalf("event %d of %s has no outcome", id, topic)
				case (err != nil) != failing[topic][id]:
					t.Fatalf("event %d of %s: %v", id, topic, err)
				case err != nil:
					blocked[key(id)] = true
				}
			}
			last := map[string]int64{}
			for _, id := range s.sent {
				if s.ordered && id < last[key(id)] && !failing[topic][id] {
					t.Fatalf("event %d of %s left after %d of its key", id, topic, last[key(id)])
				}
				last[key(id)] = max(last[key(id)], id)
			}
		}
	})
}

func TestSender_ABusyTopicDelaysAnotherByNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = 10 * time.Millisecond
		busy, quiet := &stub{send: slow(latency)}, &stub{send: slow(latency)}
		d := newDiary()
		s := stubs(map[string]*stub{"busy": busy, "quiet": quiet}).Open(d.request())
		s.Add("busy", numbered(1, 10_000, nil))
		time.Sleep(10*latency + latency/2)
		for i := range 20 {
			s.Add("quiet", numbered(1+i, 1, nil))
			time.Sleep(latency)
			synctest.Wait()
			require.Equal(t, ids(1, i+1), d.acknowledged("quiet"), "as if it were alone")
		}
		require.GreaterOrEqual(t, busy.atOnce(), limit.Initial)
		require.Positive(t, s.Backlog())
		closeSender(t, s)
	})
}

func TestSender_TopicsOfOneDestinationTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = 10 * time.Millisecond
		both := &stub{send: slow(latency)}
		d := newDiary()
		s := stubs(map[string]*stub{"busy": both, "quiet": both}).Open(d.request())
		s.Add("busy", numbered(1, 10_000, nil))
		time.Sleep(10*latency + latency/2)
		s.Add("quiet", numbered(1, 1, nil))
		time.Sleep(latency/2 + latency)
		synctest.Wait()
		require.Equal(t, ids(1, 1), d.acknowledged("quiet"), "it gets the first place that is free")
		require.GreaterOrEqual(t, both.atOnce(), limit.Initial)
		closeSender(t, s)
	})
}

func TestSender_DestinationsThatHangHoldOnlyTheirOwnTopics(t *testing.T) {
	for _, hanging := range []int{1, 40} {
		t.Run(fmt.Sprint(hanging), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				topics := map[string]*stub{"fine": {send: slow(time.Millisecond)}}
				for i := range hanging {
					topics[fmt.Sprint("hangs-", i)] = &stub{send: slow(15 * time.Second)}
				}
				d := newDiary()
				s := stubs(topics).Open(d.request())
				for topic := range topics {
					s.Add(topic, numbered(1, 500, nil))
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Len(t, d.acknowledged("fine"), 500)
				require.Empty(t, d.of("hangs-0"))
				s.Drop("fine")
				synctest.Wait()
				require.Equal(t, 1, d.drops("fine"), "nothing of it is in flight")
				s.Drop("hangs-0")
				synctest.Wait()
				require.Zero(t, d.drops("hangs-0"))
				time.Sleep(15 * time.Second)
				synctest.Wait()
				require.Equal(t, 1, d.drops("hangs-0"))
				closeSender(t, s)
			})
		})
	}
}

func TestSender_SaysWhichTopicsHaveASilentDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		r := d.request()
		silent := map[string]int{}
		r.Silent = func(topic string) {
			defer d.write()()
			silent[topic]++
		}
		take := func() map[string]int {
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			defer clear(silent)
			return maps.Clone(silent)
		}
		queue := &stub{send: slow(15 * time.Second)}
		s := stubs(map[string]*stub{"a": queue, "b": queue, "slow": {send: slow(4 * time.Second)}}).Open(r)
		s.Add("slow", numbered(1, 500, nil))
		time.Sleep(time.Second / 2)
		s.Add("a", numbered(1, 500, nil))
		time.Sleep(time.Second)
		s.Add("b", numbered(1, 1, nil)) // it waits for its turn
		time.Sleep(4 * time.Second)
		require.Empty(t, take())
		time.Sleep(time.Second)
		require.Equal(t, map[string]int{"a": 1, "b": 1}, take())
		s.Drop("a")
		time.Sleep(time.Second)
		require.Equal(t, map[string]int{"b": 1}, take())
		time.Sleep(10 * time.Second)
		take()
		time.Sleep(2 * time.Second)
		require.Empty(t, take(), "it has answered, and the request of the next topic began")
		closeSender(t, s)
		require.NoError(t, d.wrong)
	})
}

func TestSender_ThatStoodStillTakesNoDestinationForSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stood := false
		s := stubs(map[string]*stub{"orders": {send: slow(time.Second)}, "quick": {}}).Open(relay.SenderRequest{
			Silent: func(topic string) { t.Error(topic, "is silent") },
			Report: func(topic string, _ []relay.Outcome) {
				if !stood {
					stood = true
					time.Sleep(time.Minute)
				}
			},
		})
		s.Add("orders", numbered(1, 1000, nil))
		s.Add("quick", numbered(1, 1, nil))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.True(t, stood)
		closeSender(t, s)
	})
}

func TestSender_SendsMoreToADestinationThatAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := atomic.Bool{}
		to := &stub{send: func(context.Context, []*relay.Event) answer {
			time.Sleep(time.Second)
			if hangs.Load() {
				return failAll(&relay.PublishError{Code: relay.CodeTimeout})
			}
			return answer{}
		}}
		d := newDiary()
		s := stubs(map[string]*stub{"orders": to}).Open(d.request())
		s.Add("orders", numbered(1, 10_000, nil))
		for _, want := range []int{4, 8, 16, 16} {
			synctest.Wait()
			require.Equal(t, want, to.now())
			hangs.Store(want == 16 && to.calls() > 40)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		require.Equal(t, 4, to.now())
		closeSender(t, s)
	})
}

func TestSender_HasNoMoreRequestsInFlightThanItsOwnerAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stub{send: slow(time.Second)}
		var most atomic.Int64
		most.Store(6)
		r := newDiary().request()
		r.Most = func() int { return int(most.Load()) }
		s := stubs(map[string]*stub{"orders": to}).Open(r)
		s.Add("orders", numbered(1, 10_000, nil))
		for _, want := range []int{4, 6, 6, 6} {
			synctest.Wait()
			require.Equal(t, want, to.now())
			time.Sleep(time.Second)
		}
		most.Store(2)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, to.now(), "from the next requests on")
		most.Store(0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Greater(t, to.now(), 6, "the limiter alone decides")
		closeSender(t, s)
	})
}

func TestSender_DropForgetsUnsentEventsAndReportsThoseInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stub{send: slow(time.Second)}
		d := newDiary()
		r := d.request()
		reported := 0 // when it was dropped
		note := r.Dropped
		r.Dropped = func(topic string) { note(topic); reported = len(d.of(topic)) }
		s := stubs(map[string]*stub{"orders": to}).Open(r)
		s.Add("orders", numbered(1, 1000, nil))
		synctest.Wait()
		require.Equal(t, 1000-10*leastAtOneDestination, s.Backlog())
		s.Drop("orders")
		s.Drop("orders") // once more changes nothing
		s.Add("orders", numbered(2001, 10, nil))
		synctest.Wait()
		require.Zero(t, s.Backlog())
		require.Zero(t, d.drops("orders"), "requests are in flight")
		s.Add("orders", numbered(3001, 10, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 1, d.drops("orders"))
		require.Equal(t, 10*leastAtOneDestination, reported)
		time.Sleep(time.Minute)
		require.Equal(t, leastAtOneDestination, to.calls(), "nothing was sent since")

		s.Add("orders", numbered(4001, 10, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, d.of("orders"), reported+10)
		require.Contains(t, d.of("orders"), int64(4010))
		require.Equal(t, 1, d.drops("orders"))
		closeSender(t, s)
	})
}

func TestSender_DropSaysAtOnceWhichEventsAreInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		r := d.request()
		var inFlight [][]int64
		r.Dropping = func(topic string, refs []relay.Ref) {
			defer d.write()()
			require.Equal(t, "orders", topic)
			require.Equal(t, len(inFlight), d.dropped[topic], "it comes before Dropped")
			all := []int64{}
			for _, ref := range refs {
				all = append(all, ref.ID)
			}
			slices.Sort(all)
			inFlight = append(inFlight, all)
		}
		s := stubs(map[string]*stub{"orders": {send: slow(15 * time.Second)}}).Open(r)
		s.Add("orders", numbered(1, 1000, nil))
		synctest.Wait()
		s.Drop("orders")
		s.Drop("orders")
		synctest.Wait()
		require.Equal(t, [][]int64{ids(1, 10*leastAtOneDestination)}, inFlight)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		require.Equal(t, inFlight[0], d.acknowledged("orders"))
		require.Equal(t, 1, d.drops("orders"))
		s.Drop("orders")
		synctest.Wait()
		require.Equal(t, [][]int64{inFlight[0], {}}, inFlight, "nothing is in flight")
		closeSender(t, s)
		require.NoError(t, d.wrong)
	})
}

func TestSender_DropOfATopicWithoutEventsIsDroppedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		s := stubs(nil).Open(d.request())
		s.Drop("nobody")
		synctest.Wait()
		require.Equal(t, 1, d.drops("nobody"))
		s.Drop("nobody")
		synctest.Wait()
		require.Equal(t, 2, d.drops("nobody"))
		closeSender(t, s)
		s.Drop("nobody")
		synctest.Wait()
		require.Equal(t, 2, d.drops("nobody"))
	})
}

func TestSender_DropForgetsTheHalvesOfADividedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stub{ordered: true, send: func(context.Context, []*relay.Event) answer {
			time.Sleep(time.Second)
			return failAll(errorcode.New("InvalidParameter", "no"))
		}}
		d := newDiary()
		s := stubs(map[string]*stub{"orders": to}).Open(d.request())
		s.Add("orders", numbered(1, 10, func(id int64) string { return fmt.Sprint(id % 10) }))
		synctest.Wait()
		s.Drop("orders")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, 1, d.drops("orders"))
		require.Equal(t, 1, to.calls())
		require.Empty(t, d.of("orders"))
		require.Zero(t, s.Backlog())
		closeSender(t, s)
	})
}

func TestSender_MayBeCalledFromItsReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stub{}
		var s relay.Sender
		rounds := 0
		s = stubs(map[string]*stub{"orders": to}).Open(relay.SenderRequest{
			Report: func(topic string, _ []relay.Outcome) { s.Drop(topic) },
			Dropped: func(topic string) {
				if rounds++; rounds < 5 {
					s.Add(topic, numbered(1+rounds, 1, nil))
				}
			},
		})
		s.Add("orders", numbered(1, 1, nil))
		synctest.Wait()
		require.Equal(t, 5, rounds)
		require.Equal(t, ids(1, 5), to.ids())
		closeSender(t, s)
	})
}

func TestSender_AKeyStaysInOrderAcrossAddsAndIsHeldBehindAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := atomic.Bool{}
		to := &stub{ordered: true, send: func(_ context.Context, events []*relay.Event) (a answer) {
			time.Sleep(time.Second)
			if fails.Load() {
				a[0] = errRejected
			}
			return a
		}}
		key := func(int64) string { return "k" }
		d := newDiary()
		s := stubs(map[string]*stub{"orders": to}).Open(d.request())
		for i := range 5 {
			s.Add("orders", numbered(1+i, 1, key))
		}
		time.Sleep(2500 * time.Millisecond)
		require.Equal(t, ids(1, 3), to.ids())
		require.Equal(t, 2, s.Backlog())
		fails.Store(true)
		time.Sleep(10 * time.Minute)
		s.Add("orders", numbered(6, 1, key))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, ids(1, 3), to.sent, "the key stays blocked, however long nothing happens")
		require.Len(t, d.of("orders"), 3)
		require.Zero(t, s.Backlog(), "what is held is no backlog")
		closeSender(t, s)
	})
}

func TestSender_ARequestIsNotCutAtTheEndOfTheLeaseAndNoneStartsAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var end atomic.Pointer[time.Time]
		renew := func(d time.Duration) { at := time.Now().Add(d); end.Store(&at) }
		renew(3 * time.Second)
		to := &stub{send: func(ctx context.Context, _ []*relay.Event) (a answer) {
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, 15*time.Second, time.Until(deadline))
			time.Sleep(10 * time.Second)
			assert.NoError(t, ctx.Err())
			return a
		}}
		d := newDiary()
		r := d.request()
		r.Deadline = func() time.Time { return *end.Load() }
		s := stubs(map[string]*stub{"orders": to}).Open(r)
		s.Add("orders", numbered(1, 10, nil))
		time.Sleep(3 * time.Second)
		s.Add("orders", numbered(11, 10, nil))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, ids(1, 10), d.acknowledged("orders"))
		require.Equal(t, 1, to.calls(), "the lease is over")
		require.Equal(t, 10, s.Backlog())
		renew(time.Minute)
		time.Sleep(askAgain + 10*time.Second)
		synctest.Wait()
		require.Equal(t, ids(1, 20), d.acknowledged("orders"))
		closeSender(t, s)
	})
}

func TestSender_CloseForgetsUnsentEventsAndWaitsForRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stub{send: slow(time.Second)}
		d := newDiary()
		s := stubs(map[string]*stub{"orders": to}).Open(d.request())
		s.Add("orders", numbered(1, 1000, nil))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, s.Close(ctx), context.DeadlineExceeded)
		require.Zero(t, s.Backlog())
		require.Empty(t, d.of("orders"))
		s.Add("orders", numbered(2001, 10, nil))
		closeSender(t, s)
		closeSender(t, s)
		require.Len(t, d.acknowledged("orders"), 10*leastAtOneDestination)
		require.Equal(t, leastAtOneDestination, to.calls())
		require.Zero(t, s.Backlog())
	})
}

func TestSender_CloseEndsTheDropsThatAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		s := stubs(map[string]*stub{"orders": {send: slow(time.Second)}}).Open(d.request())
		s.Add("orders", numbered(1, 100, nil))
		synctest.Wait()
		s.Drop("orders")
		closeSender(t, s)
		require.Equal(t, 1, d.drops("orders"))
		require.Len(t, d.acknowledged("orders"), 10*leastAtOneDestination)
	})
}

func TestSender_ForgetsOutletsThatAreIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topics := map[string]*stub{}
		for i := range 1000 {
			topics[fmt.Sprint("topic-", i)] = &stub{}
		}
		topics["busy"] = &stub{send: slow(time.Millisecond)}
		d := newDiary()
		r := d.request()
		var s *stream
		var branches, gates, goroutines int
		looked := make(chan struct{})
		r.Dropped = func(string) {
			branches, gates, goroutines = len(s.branches), len(s.gates), len(s.idle)
			looked <- struct{}{}
		}
		look := func() { s.Drop("nobody"); <-looked }
		s = stubs(topics).Open(r).(*stream)
		for topic := range topics {
			s.Add(topic, numbered(1, 30, nil))
		}
		time.Sleep(time.Second)
		look()
		require.Equal(t, []int{1001, 1001}, []int{branches, gates})
		require.Greater(t, goroutines, 1)
		for i := range 2 * 60 {
			s.Add("busy", numbered(31+i, 1, nil))
			time.Sleep(time.Second)
		}
		look()
		require.Equal(t, []int{1, 1, 1}, []int{branches, gates, goroutines}, "that of the topic that is busy")
		time.Sleep(2 * time.Minute)
		look()
		require.Equal(t, []int{0, 0, 0}, []int{branches, gates, goroutines})
		s.Add("topic-7", numbered(31, 1, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, d.acknowledged("topic-7"), 31)
		closeSender(t, s)
	})
}

func TestSender_APayloadIsGarbageOnceItsRequestIsAnswered(t *testing.T) {
	var answered, freed atomic.Int64
	release := make(chan struct{})
	to := &stub{send: func(_ context.Context, events []*relay.Event) (a answer) {
		if events[0].ID > 10 {
			<-release
		}
		return a
	}}
	s := stubs(map[string]*stub{"orders": to}).Open(relay.SenderRequest{
		Report: func(_ string, outcomes []relay.Outcome) { answered.Add(int64(len(outcomes))) },
	})
	func() {
		page := numbered(1, 1000, nil) // one page, of which most is not sent
		for i := range page {
			payload := bytes.Repeat([]byte("x"), 40)
			runtime.AddCleanup(&payload[0], func(struct{}) { freed.Add(1) }, struct{}{})
			page[i].Payload = unsafe.String(&payload[0], len(payload))
		}
		s.Add("orders", page)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return freed.Load() == 10
	}, 10*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 10, answered.Load())
	require.NotZero(t, s.Backlog())
	close(release)
	require.Eventually(t, func() bool {
		runtime.GC()
		return freed.Load() == 1000
	}, 10*time.Second, 10*time.Millisecond)
	closeSender(t, s)
}

// directory is a driver whose look-ups a test controls.
type directory struct {
	destination.Driver
	lookUp func(ctx context.Context, r Route) (Route, error)
	to     func(r Route) destination.Destination
}

func (d directory) LookUp(ctx context.Context, r Route) (Route, error) { return d.lookUp(ctx, r) }

func (d directory) Open(r Route) destination.Destination { return d.to(r) }

// listed is a publisher of topics that are looked up in a directory.
func listed(d directory, topics ...string) *Publisher {
	p := &Publisher{
		cfg: Config{}.withDefaults(), routes: make(map[string]*cachedRoute),
		drivers: map[Service]destination.Driver{SQS: d},
	}
	for _, topic := range topics {
		p.routes[topic] = newCachedRoute(Route{Topic: topic, Service: SQS})
	}
	return p
}

func TestSender_ALookUpDelaysOnlyItsOwnTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stub{limit: 1000}
		d := newDiary()
		s := listed(directory{
			lookUp: func(ctx context.Context, r Route) (Route, error) {
				if r.Topic == "hangs" {
					<-ctx.Done()
					return r, errorcode.New(relay.CodeTimeout, "no answer")
				}
				time.Sleep(3 * time.Second)
				return r, nil
			},
			to: func(Route) destination.Destination { return to },
		}, "hangs", "slow").Open(d.request())
		s.Add("hangs", numbered(1, 25, nil))
		s.Add("slow", numbered(1, 25, nil))
		s.Add("unknown", numbered(1, 25, nil))
		synctest.Wait()
		require.Len(t, d.of("unknown"), 25)
		require.Equal(t, relay.CodeNoRoute, d.of("unknown")[25].Code)
		require.True(t, d.of("unknown")[25].Whole)
		require.Equal(t, 50, s.Backlog())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, ids(1, 25), d.acknowledged("slow"))
		require.Empty(t, d.of("hangs"))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, d.of("hangs"), 25)
		require.Equal(t, relay.CodeTimeout, d.of("hangs")[1].Code)
		require.Zero(t, s.Backlog())
		s.Add("hangs", numbered(26, 1, nil))
		synctest.Wait()
		require.Equal(t, relay.CodeTimeout, d.of("hangs")[26].Code, "until it is dropped")
		closeSender(t, s)
	})
}

func TestSender_ATopicThatWasDroppedIsLookedUpAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exists := false
		d := newDiary()
		s := listed(directory{
			lookUp: func(_ context.Context, r Route) (Route, error) {
				if !exists {
					return r, errorcode.New("NotFound", "gone")
				}
				return r, nil
			},
			to: func(Route) destination.Destination { return &stub{limit: 1000} },
		}, "orders").Open(d.request())
		s.Add("orders", numbered(1, 1, nil))
		synctest.Wait()
		require.Equal(t, "NotFound", d.of("orders")[1].Code)
		exists = true
		s.Drop("orders")
		synctest.Wait()
		s.Add("orders", numbered(2, 1, nil))
		synctest.Wait()
		require.Equal(t, ids(2, 1), d.acknowledged("orders"))
		closeSender(t, s)
	})
}

func TestSender_ATopicMayBeDroppedWhileItIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lookUps := 0
		to := &stub{limit: 1000}
		d := newDiary()
		s := listed(directory{
			lookUp: func(_ context.Context, r Route) (Route, error) { lookUps++; time.Sleep(time.Second); return r, nil },
			to:     func(Route) destination.Destination { return to },
		}, "orders").Open(d.request())
		for i := range 3 {
			s.Add("orders", numbered(1+i, 1, nil))
			s.Drop("orders")
			synctest.Wait()
			require.Equal(t, i+1, d.drops("orders"))
			require.Zero(t, s.Backlog())
		}
		s.Add("orders", numbered(4, 1, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, ids(4, 1), to.ids())
		require.Equal(t, 1, lookUps)
		closeSender(t, s)
	})
}

func TestSender_LooksUpSoManyTopicsAtOnceAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var topics []string
		for i := range 1000 {
			topics = append(topics, fmt.Sprint("topic-", i))
		}
		var now, most, all atomic.Int64
		d := newDiary()
		s := listed(directory{
			lookUp: func(_ context.Context, r Route) (Route, error) {
				most.Store(max(most.Load(), now.Add(1)))
				all.Add(1)
				time.Sleep(100 * time.Millisecond)
				now.Add(-1)
				return r, nil
			},
			to: func(Route) destination.Destination { return &stub{limit: 1000} },
		}, topics...).Open(d.request())
		for range 3 {
			for _, topic := range topics {
				s.Add(topic, numbered(1+len(d.of(topic)), 1, nil))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		require.EqualValues(t, mostLookUps, most.Load())
		require.EqualValues(t, 1000, all.Load())
		for _, topic := range topics {
			require.Equal(t, ids(1, 3), d.acknowledged(topic))
		}
		closeSender(t, s)
	})
}

func TestSender_LooksADestinationUpAgainBesideItsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened []*stub
		lookUps := 0
		d := newDiary()
		p := listed(directory{
			lookUp: func(_ context.Context, r Route) (Route, error) {
				lookUps++
				switch lookUps {
				case 2:
					time.Sleep(time.Second)
				case 3:
					return r, errors.New("away")
				}
				return r, nil
			},
			to: func(Route) destination.Destination {
				opened = append(opened, &stub{limit: 1000})
				return opened[len(opened)-1]
			},
		}, "orders")
		s := p.Open(d.request())
		send := func(id int) {
			s.Add("orders", numbered(id, 1, nil))
			synctest.Wait()
			require.Equal(t, ids(1, id), d.acknowledged("orders"), "it does not wait for a look-up")
		}
		send(1)
		time.Sleep(p.cfg.RefreshAfter + time.Second)
		// The outlet has gone meanwhile, so its successor has to wait.
		s.Add("orders", numbered(2, 1, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 2, lookUps)
		for i := range 3 * 60 {
			send(3 + i)
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, 4, lookUps)
		require.Len(t, opened, 3)
		require.Len(t, opened[0].ids(), 1)
		require.NotEmpty(t, opened[1].ids())
		require.NotEmpty(t, opened[2].ids())
		closeSender(t, s)
	})
}

func TestSender_CloseDoesNotWaitForALookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary()
		s := listed(directory{lookUp: func(ctx context.Context, r Route) (Route, error) {
			<-ctx.Done()
			return r, ctx.Err()
		}}, "orders").Open(d.request())
		s.Add("orders", numbered(1, 1, nil))
		synctest.Wait()
		start := time.Now()
		closeSender(t, s)
		require.Equal(t, start, time.Now())
		require.Empty(t, d.of("orders"))
	})
}
