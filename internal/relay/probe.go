package relay

// Probe asks for pending events of a lease's lanes beyond its first page.
type Probe struct {
	// After is the id behind which to look, in the order of ids over all lanes.
	After int64
	// Newest asks for the highest ids instead. After is ignored then.
	Newest bool
	// Ordered leaves out every event that has an earlier pending event of its key.
	Ordered bool
	// Events is how many pending events are looked at, at most.
	Events int
}

// Probed is the answer to a Probe.
type Probed struct {
	// Page has the events that may be sent, ascending by id. It may be empty though
	// more events are pending.
	Page
	// Next is the id behind which the next probe looks. 0: the end was reached.
	Next int64
}
