package relay

// Partitions says what was done to the daily partitions of outbox.event. Days are
// UTC, as 2006-01-02.
type Partitions struct {
	Made []string `json:"made,omitempty"`
	// Moved is in the results of earlier versions, which moved events out of the default
	// partition.
	Moved int64 `json:"moved,omitempty"`
	// Later are days without a partition: the default one has events of them, or producers
	// were in the way.
	Later   []string `json:"later,omitempty"`
	Dropped []string `json:"dropped,omitempty"`
	// Deleted is how many expired events were deleted from the default partition.
	Deleted int64 `json:"deleted,omitempty"`
	// Needed are expired days that have events that are pending or dead.
	Needed []string `json:"needed,omitempty"`
	// Left says of days that were left as they are what was in the way, and the remedy.
	Left []string `json:"left,omitempty"`
}

// Health is what an operator should know of the database before it hurts.
type Health struct {
	// Ahead is for how many days after today there are partitions, without a gap.
	Ahead int `json:"ahead"`
	// Caught is how many events are in the default partition.
	Caught int64 `json:"caught,omitempty"`
	// HeldXIDs is by how many transactions the oldest transaction, snapshot, replication
	// slot or prepared transaction lags: what was settled since cannot be vacuumed.
	HeldXIDs int64 `json:"heldXids,omitempty"`
	// HeldBy says what that is.
	HeldBy string `json:"heldBy,omitempty"`
	// NotEnqueued says what keeps events from becoming pending when they are inserted.
	NotEnqueued string `json:"notEnqueued,omitempty"`
}
