package publish

import "github.com/temporal-outbox/relay/internal/relay"

// entry is one event on its way.
type entry struct {
	ev    *relay.Event
	seq   int // position in the stream
	bytes int // as the destination counts
	// refusal is set where the event need not be sent to know its outcome.
	refusal *relay.PublishError
	line    *line  // the key's, nil where nothing is to be kept in order
	next    *entry // behind this one in line
}

// line is the events of one key on an ordered destination. As long as it exists
// one of them is ready or out, and the others wait here. Once one has failed the
// line is blocked for good.
type line struct {
	first, last *entry
	waiting     int
	blocked     bool
}

// packer decides which events may be sent next, and together. It does no I/O and
// is not safe for concurrent use.
//
// What is ready leaves oldest first. On ordered destinations that serves the key
// with the most events best: its next one does not queue behind younger ones of
// others, and the number of its events is what the whole takes at least.
type packer struct {
	ordered bool
	most    int // events of a request
	limit   int // bytes of a request, unless a single event has more
	lines   map[string]*line
	ready   readyHeap
	queued  int // in lines, neither ready nor held
	held    int // behind a failed event of their key
	seq     int
}

func newPacker(ordered bool, most, limit int) *packer {
	p := &packer{ordered: ordered, most: most, limit: limit}
	if ordered {
		p.lines = make(map[string]*line)
	}
	return p
}

// add takes the next events of the stream. They must stay untouched until they
// are done.
func (p *packer) add(entries []entry) {
	for i := range entries {
		e := &entries[i]
		e.seq = p.seq
		p.seq++
		if !p.ordered || e.ev.Key == "" {
			p.ready.push(e)
			continue
		}
		l := p.lines[e.ev.Key]
		switch {
		case l == nil:
			e.line = &line{}
			p.lines[e.ev.Key] = e.line
			p.ready.push(e)
		case l.blocked:
			p.held++
		default:
			e.line = l
			if l.first == nil {
				l.first = e
			} else {
				l.last.next = e
			}
			l.last = e
			l.waiting++
			p.queued++
		}
	}
}

// unsent is the number of events that were added and neither left nor are held.
func (p *packer) unsent() int { return len(p.ready) + p.queued }

// next appends the entries of the next request to batch, and those that need no
// request because they are refused to refused. Both are out until done is called
// for them. An empty batch means that nothing can be sent now.
func (p *packer) next(batch, refused []*entry) (_, _ []*entry) {
	bytes := 0
	for len(p.ready) > 0 && len(batch) < p.most {
		e := p.ready[0]
		if e.refusal == nil {
			if len(batch) > 0 && bytes+e.bytes > p.limit {
				break
			}
			bytes += e.bytes
			batch = append(batch, e)
		} else {
			refused = append(refused, e)
		}
		p.ready.pop()
	}
	return batch, refused
}

// done says what became of an entry that next handed out: if it was acknowledged
// the next of its key becomes ready, if not, all behind it are held.
func (p *packer) done(e *entry, acknowledged bool) {
	l := e.line
	if l == nil {
		return
	}
	if !acknowledged {
		l.blocked = true
		p.held += l.waiting
		p.queued -= l.waiting
		l.first, l.last, l.waiting = nil, nil, 0
		return
	}
	if l.first == nil {
		delete(p.lines, e.ev.Key)
		return
	}
	n := l.first
	l.first, n.next = n.next, nil
	l.waiting--
	p.queued--
	p.ready.push(n)
}

// readyHeap is a binary heap with the oldest entry on top. (container/heap would
// do, but for its detour over any.)
type readyHeap []*entry

func (h *readyHeap) push(e *entry) {
	*h = append(*h, e)
	q := *h
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if q[parent].seq < q[i].seq {
			return
		}
		q[parent], q[i] = q[i], q[parent]
		i = parent
	}
}

func (h *readyHeap) pop() *entry {
	q := *h
	top, last := q[0], len(q)-1
	q[0], q[last] = q[last], nil
	q = q[:last]
	*h = q
	for i := 0; ; {
		child := 2*i + 1
		if child+1 < last && q[child+1].seq < q[child].seq {
			child++
		}
		if child >= last || q[i].seq < q[child].seq {
			return top
		}
		q[i], q[child] = q[child], q[i]
		i = child
	}
}
