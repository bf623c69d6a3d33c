package publish

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/publish/limit"
)

// moody is a limiter that refuses as it likes, and grants later.
type moody struct {
	t      *rapid.T
	waits  bool
	has    bool
	places int // taken or granted
}

func (l *moody) Take() bool {
	switch {
	case l.has:
		l.has = false
		return true
	case l.waits:
		l.t.Fatal("a loop asks again before its turn")
	case rapid.IntRange(0, 9).Draw(l.t, "not your turn") == 0:
		l.waits = true
		return false
	}
	l.places++
	return true
}

func (l *moody) PutBack() { l.places-- }

func (l *moody) Done(limit.Answer) int { l.places--; return 0 }

func (*moody) Leave() {}

// grant lets the request start that the limiter of a gate has refused.
func (m *rotaModel) grant(g *gate) {
	l := g.limiter.(*moody)
	if !l.waits {
		return
	}
	l.waits, l.has = false, true
	l.places++
	m.r.granted(g)
}

// rotaModel is what a rota promises of outlets that have so many requests to send.
type rotaModel struct {
	r       *rota
	gates   []*gate
	outlets []*outlet
	work    map[*outlet]int
	out     []*outlet       // one for each request in flight
	paused  map[*outlet]int // those that may not start before resume
	// overtaken counts, for each outlet that could start a request and did not, the requests that
	// each other outlet has started meanwhile.
	overtaken map[*outlet]map[*outlet]int
}

// turn takes one turn, as the loop does. It returns false if no outlet may start a request.
func (m *rotaModel) turn(t *rapid.T) bool {
	o := m.r.next()
	switch {
	case o == nil:
		return false
	case m.work[o] == 0:
		m.r.rest(o)
	case rapid.IntRange(0, 9).Draw(t, "the lease is over") == 0:
		m.r.again(o)
		return false
	case !m.r.take(o):
	case rapid.IntRange(0, 9).Draw(t, "its rate is used up") == 0:
		m.r.putBack(o)
		m.r.pause(o)
		m.paused[o]++
		delete(m.overtaken, o)
	default:
		m.start(t, o)
	}
	return true
}

func (m *rotaModel) start(t *rapid.T, o *outlet) {
	m.out = append(m.out, o)
	m.work[o]--
	m.r.offer(o)
	delete(m.overtaken, o)
	for _, other := range m.outlets {
		if other == o || !m.could(other) {
			delete(m.overtaken, other)
			continue
		}
		if m.overtaken[other] == nil {
			m.overtaken[other] = map[*outlet]int{}
		}
		// Once while it stands in line, once where it had to wait at its gate, and once more where the
		// limiter has kept that gate closed.
		if m.overtaken[other][o]++; m.overtaken[other][o] > 3 {
			t.Fatalf("an outlet was overtaken by another %d times", m.overtaken[other][o])
		}
	}
}

// could reports whether an outlet has a right to a turn now.
func (m *rotaModel) could(o *outlet) bool {
	return m.work[o] > 0 && m.paused[o] == 0 && o.gate.isOpen() && (m.r.most == 0 || m.r.inFlight < m.r.most)
}

func (m *rotaModel) check(t *rapid.T) {
	flying, perGate := len(m.out), map[*gate]int{}
	for _, o := range m.out {
		perGate[o.gate]++
	}
	if flying != m.r.inFlight || m.r.most > 0 && flying > m.r.most {
		t.Fatalf("%d requests are in flight, the rota counts %d of %d", flying, m.r.inFlight, m.r.most)
	}
	for _, g := range m.gates {
		if g.inFlight != perGate[g] || g.inFlight > g.most || g.window < g.least || g.window > g.most {
			t.Fatalf("%d requests are at a gate, which counts %d of %d", perGate[g], g.inFlight, g.most)
		}
		if l := g.limiter.(*moody); l.has != g.granted || l.places != perGate[g] && (!l.has || l.places != perGate[g]+1) {
			t.Fatalf("the limiter counts %d places, and %d requests are in flight", l.places, perGate[g])
		}
	}
}

// idle checks that nothing is left behind when no outlet may start a request.
func (m *rotaModel) idle(t *rapid.T) {
	for _, o := range m.outlets {
		if m.could(o) {
			t.Fatalf("an outlet has work, a free gate, and no turn: %d of %d in flight, %d at its gate", m.r.inFlight, m.r.most, o.gate.inFlight)
		}
	}
}

func TestRota_KeepsItsBoundsAndItsOrderUnderEverySchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &rotaModel{
			r:    &rota{most: rapid.SampledFrom([]int{0, 1, 3, 10}).Draw(t, "most")},
			work: map[*outlet]int{}, paused: map[*outlet]int{}, overtaken: map[*outlet]map[*outlet]int{},
		}
		for range rapid.IntRange(1, 4).Draw(t, "gates") {
			m.gates = append(m.gates, newGate(&moody{t: t}, rapid.IntRange(1, 4).Draw(t, "least"), rapid.IntRange(4, 6).Draw(t, "most")))
		}
		for range rapid.IntRange(1, 8).Draw(t, "outlets") {
			m.outlets = append(m.outlets, &outlet{gate: rapid.SampledFrom(m.gates).Draw(t, "gate")})
		}
		answer := func(i int) {
			o := m.out[i]
			m.out = slices.Delete(m.out, i, i+1)
			if rapid.IntRange(0, 9).Draw(t, "unanswered") == 0 {
				o.gate.unanswered()
			} else {
				o.gate.answered()
			}
			o.gate.limiter.Done(limit.Answer{})
			m.r.done(o)
			if m.work[o] > 0 {
				m.r.offer(o)
			}
		}
		resume := func() {
			m.r.resume()
			clear(m.paused)
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				o := rapid.SampledFrom(m.outlets).Draw(t, "to")
				m.work[o] += rapid.IntRange(1, 20).Draw(t, "work")
				m.r.offer(o)
			},
			"drop":   func(t *rapid.T) { m.work[rapid.SampledFrom(m.outlets).Draw(t, "dropped")] = 0 },
			"turn":   func(t *rapid.T) { m.turn(t) },
			"resume": func(t *rapid.T) { resume() },
			"grant":  func(t *rapid.T) { m.grant(rapid.SampledFrom(m.gates).Draw(t, "granted")) },
			"answer": func(t *rapid.T) {
				if len(m.out) > 0 {
					answer(rapid.IntRange(0, len(m.out)-1).Draw(t, "to"))
				}
			},
			"": func(t *rapid.T) { m.check(t) },
		})
		// In the end everything is sent.
		for range 100_000 {
			m.check(t)
			for m.possible() {
				m.turn(t)
			}
			m.idle(t)
			resume()
			for _, g := range m.gates {
				m.grant(g)
			}
			if len(m.out) == 0 && m.left() == 0 {
				return
			}
			if len(m.out) > 0 {
				answer(rapid.IntRange(0, len(m.out)-1).Draw(t, "to"))
			}
		}
		t.Fatalf("%d requests are never sent", m.left())
	})
}

func (m *rotaModel) left() (n int) {
	for _, work := range m.work {
		n += work
	}
	return n
}

// possible reports whether next would return an outlet.
func (m *rotaModel) possible() bool {
	return !m.r.due.empty() && (m.r.most == 0 || m.r.inFlight < m.r.most)
}

func TestLine_IsFirstInFirstOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l line
		var want []*outlet
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				o := &outlet{}
				l.push(o)
				want = append(want, o)
			},
			"pop": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip("empty")
				}
				o := l.pop()
				if o != want[0] {
					t.Fatal("another one was first")
				}
				if rapid.Bool().Draw(t, "undo") {
					l.unpop(o)
					return
				}
				want = want[1:]
			},
			"": func(t *rapid.T) {
				if l.empty() != (len(want) == 0) {
					t.Fatalf("empty is %t with %d", l.empty(), len(want))
				}
			},
		})
	})
}
