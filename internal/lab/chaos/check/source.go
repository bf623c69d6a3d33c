package check

// Source gives a run's events part by part, so that a long run is judged without having
// all of them in memory. All facts of an event are in the same part.
type Source interface {
	Parts() int
	Part(n int) (Part, error)
	// Put keeps a step for Steps. All steps of a key are in the same part.
	Put(Step) error
	Steps(n int) ([]Step, error)
}

// Step is one reception of an event that has a key, on an ordered queue, or one of the
// key's committed events, by its producer's number.
type Step struct {
	Topic, Key string
	Seq        int64  // place among the key's events
	Queue      string // in which it was received; empty for the number of a committed event
	Delivery   int64  // 0, or the replay
	N          int    // place among all receptions
}

// memory is a source with one part.
type memory struct {
	part  Part
	steps []Step
}

func (m *memory) Parts() int                { return 1 }
func (m *memory) Part(int) (Part, error)    { return m.part, nil }
func (m *memory) Put(s Step) error          { m.steps = append(m.steps, s); return nil }
func (m *memory) Steps(int) ([]Step, error) { return m.steps, nil }
