package bench

// Report has the figures of a Run. The first four fields are a contract with scripts: a
// figure that was not measured is null. The other fields are then left out. Rates are in
// events a second.
type Report struct {
	// EventsPerSecond is the drain's rate from the trigger of the schedule to the
	// last event settled.
	EventsPerSecond *float64 `json:"events_per_second"`
	// CeilingEventsPerSecond is what the bare SDK sends to the same emulator with
	// the requests of one topic under way, a mean of before and after the drain.
	CeilingEventsPerSecond *float64 `json:"ceiling_events_per_second"`
	// LatencyMS is from the return of the commit to the destination's answer.
	LatencyMS *Percentiles `json:"latency_ms"`
	// ActivitiesPer1000 counts the activities scheduled while draining.
	ActivitiesPer1000 *float64 `json:"activities_per_1000_events"`

	// Rows are the rows of the table of goals that were measured, by their names.
	Rows map[Part]*Row `json:"rows,omitempty"`

	RatioToCeiling *float64        `json:"ratio_to_ceiling,omitempty"`
	Ceilings       []CeilingResult `json:"ceilings,omitempty"` // in the order measured
	Drains         []DrainResult   `json:"drains,omitempty"`   // all plain ones, in the order measured
	Latency        *LatencyResult  `json:"latency,omitempty"`
	Topics50       *Comparison     `json:"topics_50,omitempty"`
	HeldSnapshot   *Comparison     `json:"held_snapshot,omitempty"`
	FIFOOneKey     *FIFOResult     `json:"fifo_one_key,omitempty"`
	Receipts       *Comparison     `json:"receipts,omitempty"`
	OpenWriters    []WriterResult  `json:"open_writers,omitempty"`
	Machine        Machine         `json:"machine"`
	Notes          []string        `json:"notes,omitempty"` // what was not as it should be
}

// Percentiles are in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// CeilingResult is one measurement of the bare SDK. The SDK's share of CPUSeconds
// is "bench".
type CeilingResult struct {
	EventsPerSecond float64            `json:"events_per_second"`
	CPUSeconds      map[string]float64 `json:"cpu_seconds,omitempty"`
}

// DrainResult is one drain of a backlog.
type DrainResult struct {
	Events int `json:"events"`
	Topics int `json:"topics"`
	// Seconds is from the trigger to the last event settled; FirstSettled is when
	// the first was, and FlowEventsPerSecond the rate from there.
	Seconds             float64 `json:"seconds"`
	EventsPerSecond     float64 `json:"events_per_second"`
	FirstSettled        float64 `json:"first_settled_seconds"`
	FlowEventsPerSecond float64 `json:"flow_events_per_second"`

	Activities        int     `json:"activities"`
	ActivitiesPer1000 float64 `json:"activities_per_1000_events"`
	Batches           int     `json:"batches"`  // PublishBatch activities among them
	Requests          int     `json:"requests"` // to the destination
	EventsPerRequest  float64 `json:"events_per_request"`

	// CPUSeconds says who used the processors: the parts that run below this
	// process, the rest of the machine ("other"), and idle time ("idle").
	CPUSeconds map[string]float64 `json:"cpu_seconds,omitempty"`
	// WALBytesPerEvent is what the drain wrote to the database's log.
	WALBytesPerEvent float64 `json:"wal_bytes_per_event"`
	// PeakMiB is the most memory that the worker had.
	PeakMiB float64 `json:"peak_mib,omitempty"`
	// InFlight is the highest number of requests at once, and Repeated counts events that
	// came again. Only the benchmark's own destination knows them.
	InFlight int `json:"requests_in_flight,omitempty"`
	Repeated int `json:"repeated,omitempty"`
}

// Comparison is a variant of the drain beside plain ones.
type Comparison struct {
	DrainResult
	// PlainEventsPerSecond is the mean of the drains before and after.
	PlainEventsPerSecond float64 `json:"plain_events_per_second"`
	Ratio                float64 `json:"ratio"`
}

// LatencyResult is how LatencyMS came about.
type LatencyResult struct {
	Rate     int     `json:"rate"` // events a second, each in a transaction of its own
	Seconds  float64 `json:"seconds"`
	Events   int     `json:"events"`
	CommitMS float64 `json:"commit_ms_p50"` // what one transaction took
	// ActionsPerSecond are the actions that Temporal Cloud bills for, with heartbeats.
	ActionsPerSecond    float64 `json:"actions_per_second"`
	HeartbeatsPerSecond float64 `json:"heartbeats_per_second"` // those among them
	// Activities and requests per 1,000 events at this rate.
	ActivitiesPer1000 float64            `json:"activities_per_1000_events"`
	RequestsPer1000   float64            `json:"requests_per_1000_events"`
	CPUSeconds        map[string]float64 `json:"cpu_seconds,omitempty"`
}

// FIFOResult is one key on a FIFO queue, where an event waits for the answer to
// the one before it.
type FIFOResult struct {
	Events              int     `json:"events"`
	EventsPerSecond     float64 `json:"events_per_second"`
	BareEventsPerSecond float64 `json:"bare_events_per_second"` // the SDK alone, one after the other, before and after
	RoundTripMS         float64 `json:"round_trip_ms"`          // of the SDK alone, median
	Ratio               float64 `json:"ratio"`
}

// WriterResult is a claim and a load after much was published while a transaction was
// open, beside the same before.
type WriterResult struct {
	// Open is the kind of the open transaction: a reader, a writer of another table, or a
	// prepared transaction that wrote to one.
	Open   string `json:"open"`
	Events int    `json:"events"` // published meanwhile
	// Medians, in milliseconds.
	ClaimBeforeMS float64 `json:"claim_before_ms"`
	ClaimMS       float64 `json:"claim_ms"`
	LoadBeforeMS  float64 `json:"load_before_ms"`
	LoadMS        float64 `json:"load_ms"`
	// ClaimRatio and LoadRatio are after by before.
	ClaimRatio float64 `json:"claim_ratio"`
	LoadRatio  float64 `json:"load_ratio"`
}
