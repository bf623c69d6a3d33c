package publish

import "sync"

// mostLookUps is how many destinations a Sender looks up at once.
const mostLookUps = 32

// lookUps looks destinations up in the background, a bounded number at once, each once at a time.
// It belongs to the goroutine of a stream; only look is called elsewhere.
type lookUps struct {
	look    func(topic string) (found, error)
	running *sync.WaitGroup
	over    chan lookedUp // has room for all, so that look-ups end though nobody reads it
	pending map[string]bool
	queued  []string // those of pending that have not begun
}

// lookedUp is the end of a look-up.
type lookedUp struct {
	topic string
	found
	err error
}

func newLookUps(look func(topic string) (found, error), running *sync.WaitGroup) *lookUps {
	return &lookUps{look: look, running: running, over: make(chan lookedUp, mostLookUps), pending: make(map[string]bool)}
}

// begin looks a topic up, unless that is under way. The answer comes through over.
func (l *lookUps) begin(topic string) {
	if l.pending[topic] {
		return
	}
	l.pending[topic] = true
	l.queued = append(l.queued, topic)
	l.next()
}

// end takes note that the answer has come.
func (l *lookUps) end(topic string) {
	delete(l.pending, topic)
	l.next()
}

func (l *lookUps) next() {
	if len(l.queued) == 0 || len(l.pending)-len(l.queued) >= mostLookUps {
		return
	}
	topic := l.queued[0]
	l.queued = l.queued[1:]
	l.running.Go(func() {
		f, err := l.look(topic)
		l.over <- lookedUp{topic, f, err}
	})
}
