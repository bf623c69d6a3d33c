// Package timing holds every duration that one part of the relay needs another
// part to keep. A lease that is longer in the database than in the worker, or an
// attempt that waits longer than Temporal waits for its heartbeat, publishes
// events twice. So each of these durations is written once, here, and the parts
// take it from here. workflows/options_test.go asserts how they relate.
package timing

import "time"

// How long lanes are held.
const (
	// Lease is how long an attempt of PublishBatch holds its lanes without renewing
	// them. It outlasts every backoff, so that a batch in retry keeps its lanes.
	Lease = 60 * time.Second
	// LeaseMargin is how long before the end of its lease an attempt stops sending.
	// A request under way then is over when another claim may take the lanes.
	LeaseMargin = 5 * time.Second
	// RenewalsPerLease is how often a lease is renewed in its length. Two renewals in
	// a row may fail.
	RenewalsPerLease = 4
	// ClaimLease holds a claim until PublishBatch has begun.
	ClaimLease = 10 * time.Second
	// ClaimHandOut is how long the lease of an earlier claim must still last, so that another
	// attempt of ClaimBatches can hand it out.
	ClaimHandOut = time.Second
	// MoveStall is how long an operation's transaction may do nothing, or wait for one lock,
	// before PostgreSQL ends it. It holds locks on lanes, and their leases must not end meanwhile.
	MoveStall = 5 * time.Second
)

// How a process shows that it lives.
const (
	// HeartbeatTimeout is how long Temporal waits for a heartbeat before it gives an
	// activity to another worker.
	HeartbeatTimeout = 10 * time.Second
	// HeartbeatEvery is how often an attempt records a heartbeat.
	HeartbeatEvery = time.Second
	// HeartbeatThrottle is how long the SDK may hold a heartbeat back. Its own rule,
	// 0.8 of the timeout, would let cancellations arrive late.
	HeartbeatThrottle = 2 * time.Second
	// ClaimHeartbeatEvery is how often a claim that waits records a heartbeat. An
	// outbox in which nothing happens costs on Temporal Cloud what its claims
	// heartbeat, and little else.
	ClaimHeartbeatEvery = 4 * time.Second
	// StallLimit is how long an attempt may go without a sign of life of its own. A
	// process that stood still for longer renews its lease before it sends another
	// request, because Temporal may have given its batch to another worker.
	StallLimit = HeartbeatTimeout / 2
	// LateAfter is how much longer than others a task was on its way to this process if the
	// process asks Temporal whether the attempt is still wanted. With StallLimit it is less
	// than HeartbeatTimeout, after which Temporal begins another attempt.
	LateAfter = 2 * time.Second
	// LateWindow is the shortest time for which a task counts as the quickest. It has an end
	// because clocks are set.
	LateWindow = 5 * time.Minute
)

// How long the parts wait for the database.
const (
	// StatementTimeout bounds every call of the store on the hot path.
	StatementTimeout = 8 * time.Second
	// LongTimeout bounds each statement that may read or move much. A key of a hundred
	// thousand dead letters moves whole, and a selection may leave out a million before it
	// finds one.
	LongTimeout = 2 * time.Minute
	// ConnectTimeout is how long an attempt to connect to one host keeps a place of the
	// pool, unless the URL says it. The pool's own default is two minutes, and after a
	// failover every place may be taken by an attempt to reach a machine that is gone.
	ConnectTimeout = 5 * time.Second
	// SettlePatience is how long an attempt tries to settle before it fails. Its
	// acknowledgements are kept, see SettleEvery.
	SettlePatience = 5 * time.Second
	// SettleEvery is how often a worker tries to settle the acknowledgements of
	// attempts that have ended, and SettleTry how long one such try may take, with the
	// connection that it makes. These tries need no place of the pool, which
	// ConnectTimeout and StatementTimeout may take for longer.
	SettleEvery = 200 * time.Millisecond
	SettleTry   = 2 * time.Second
	// SettleConnect is how much of a try may go into that connection, with the look-up of
	// the name. The rest is for a connection that the pool may have.
	SettleConnect = SettleTry * 3 / 4
	// SettleGrace is how long an attempt waits before it loads lanes that their last
	// attempt has not given back. The worker of that attempt may live: when the
	// database answers one worker, it answers the other, which tries every SettleEvery. The
	// other may then be at most one try that hangs from one that does not.
	SettleGrace = 3 * time.Second
	// ReceiptsEvery is how long receipts wait for others, to be written with them. It is
	// also the pause after a try that failed, and ReceiptsTry bounds each.
	ReceiptsEvery = 100 * time.Millisecond
	ReceiptsTry   = 2 * time.Second
	// ReceiptsAtStart bounds how long a worker that starts waits for the partitions of
	// receipts. Maintenance makes those that are missing.
	ReceiptsAtStart = 5 * time.Second
	// MakePatience is how long Maintenance tries to make one partition that producers keep
	// it from.
	MakePatience = 10 * time.Second
	// ShrinkPatience is how long Maintenance waits for a moment in which no event is pending, to give disk space back.
	ShrinkPatience = 5 * time.Second
	// DatabaseRetryPauseFirst and DatabaseRetryPauseMost bound the pause between attempts that
	// fail because of the database.
	DatabaseRetryPauseFirst = 500 * time.Millisecond
	DatabaseRetryPauseMost  = 4 * time.Second
)

// How long a batch takes.
const (
	// BatchFor is how long one batch loads while its lanes hold more.
	BatchFor = 5 * time.Second
	// SendGrace is how much longer than it loads a batch sends.
	SendGrace = time.Second
	// BatchSlow is the age from which a batch no longer takes a slot, because other topics
	// must not wait for it.
	BatchSlow = 10 * time.Second
	// PublishTimeout bounds one attempt of PublishBatch.
	PublishTimeout = 3 * time.Minute
	// RequestTimeout bounds one request to a destination, with all its attempts.
	RequestTimeout = 15 * time.Second
	// StopTimeout is how long running activities have after SIGTERM and DrainMost. It
	// outlasts a request.
	StopTimeout = 23 * time.Second
	// ShutdownTimeout is how long a worker has after that to settle and to release
	// its claims.
	ShutdownTimeout = 5 * time.Second
	// StopsWithin bounds DrainMost, StopTimeout and ShutdownTimeout together: a worker stops
	// within this time after SIGTERM. A deployment gives it more: the manifests of deploy/ and
	// docker-compose.yml give 40 s.
	StopsWithin = 30 * time.Second
)

// How a worker that stops ends its polls.
const (
	// DrainQuiet is how long no task may come before the polls end that are left. Tasks come
	// after one another: one that ends makes the next.
	DrainQuiet = 300 * time.Millisecond
	// DrainSettle is how long Temporal may take to hear that a poll has ended.
	DrainSettle = 200 * time.Millisecond
	// DrainMost bounds all of it.
	DrainMost = 2 * time.Second
	// DrainLook is how often the polls are looked at.
	DrainLook = 5 * time.Millisecond
)

// The pauses before something is tried again: the first one, and the longest one.
const (
	RetryPauseFirst = 500 * time.Millisecond
	RetryPauseMost  = 30 * time.Second
	// RefusalGap is the longest time between two refusals of an event that count as one series.
	// After a longer gap, the time for which the event has been refused begins again.
	RefusalGap          = 5 * time.Minute
	ClaimRetryPauseMost = 5 * time.Second // the database was away; nobody else claims
	RecoveryPauseFirst  = time.Second
	RecoveryPauseMost   = time.Minute
	// RouteRetryPauseMost bounds the pause between two attempts that find no route for a topic.
	// There are few of them, and the route comes with another worker.
	RouteRetryPauseMost = 10 * time.Second
	// RouteWait is how long a claim waits while topics have events that it leaves out,
	// because its worker has no route for them. Another worker may have one.
	RouteWait = 5 * time.Second
)

// How it is known that nothing runs the relay.
const (
	// LookFor bounds all questions to Temporal about what runs together: a person waits for
	// the answer.
	LookFor = 4 * time.Second
	// LookEvery is how often Temporal is asked by one who watches.
	LookEvery = 10 * time.Second
	// PolledWithin is how long ago a worker that lives has polled at most: a poll takes a
	// minute. Temporal lists pollers for longer.
	PolledWithin = 75 * time.Second
	// TaskStuck is how long a workflow task waits before no worker takes it: a sticky one
	// waits for its worker for a second first.
	TaskStuck = 10 * time.Second
	// RunOverdue is how much later than its interval a schedule may start a run before it is
	// late. Temporal's clock and that of who asks may differ.
	RunOverdue = 15 * time.Second
)

// ListingAge is the age at which the listing of an account's SNS topics is read again
// from the beginning. Each attempt that looks for a topic goes on with the listing of the
// attempt before, so the listing must outlive the longest pause between two attempts.
const ListingAge = 3 * time.Minute

// How long claims leave out a topic for its recovery.
const (
	// RecoveryHold is how long a topic is held for its recovery after the recovery's last
	// attempt.
	RecoveryHold = 2 * time.Minute
	// HandoverHold is how long a topic is held from the attempt that fails for good
	// until its recovery has begun. The worker may die before Temporal has its
	// answer.
	HandoverHold = 15 * time.Second
	// HoldsEvery is how often a worker that claims asks Temporal whether the recoveries run that hold
	// topics for longer than HandoverHold.
	HoldsEvery = 5 * time.Second
	// FailureStale is how long after its next attempt was due the failure of a recovery is still
	// shown. It outlasts an attempt, after which the recovery records a new failure.
	FailureStale = 5 * time.Minute
)

// How far ahead of the database's clock a stored time may be. One that is further ahead
// was written before the clock was set back, or by another server.
const (
	// ClockMargin is added to the longest time that lanes and topics are held for.
	ClockMargin = time.Minute
	// SampleDeferMost is how long the next sample of all topics is deferred at most. Gauges and
	// the alert OutboxRelayDown, which waits for three minutes, need samples.
	SampleDeferMost = time.Minute
)

// DeduplicationWindow is how long SQS and SNS FIFO recognise a message that is
// sent again.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-exactly-once-processing.html
const DeduplicationWindow = 5 * time.Minute

// How workers share the lanes of all topics.
const (
	// ShareLease is how long a worker holds a share without renewing it. When a worker dies, others
	// take its shares after this time.
	ShareLease = 4 * time.Second
	// ShareEvery is how often a worker renews its shares, and looks for pauses, reservations and
	// shares that it may take.
	ShareEvery = 500 * time.Millisecond
	// ShareMargin is how long before the end of its lease a worker sends nothing new.
	ShareMargin = time.Second
	// ShareFirst is how long batches leave the lanes of a share whose lease has ended, or that was given
	// back, to workers that may take the share. It is longer than ShareEvery.
	ShareFirst = time.Second
	// WorkerGone is how long after its last sign of life a worker no longer counts when shares are
	// divided.
	WorkerGone = 3 * time.Second
	// SeatGrace is how long a worker goes on with its shares after its activity has ended. The next run
	// of Relay begins within that time, even if a request of a batch hangs when a run ends.
	SeatGrace = 25 * time.Second
	// SeatHeartbeat is how often the activity of a worker that holds shares records a heartbeat, and
	// SeatHeartbeatTimeout how long Temporal waits for one. The database notices a death sooner.
	SeatHeartbeat        = 30 * time.Second
	SeatHeartbeatTimeout = 90 * time.Second
	// SeatPassedOn is the pause before another worker gets a seat that its worker does not need.
	SeatPassedOn = 10 * time.Millisecond
	// ApartEvery is how often a worker that has shares looks for lanes to claim. What flows needs no
	// claim.
	ApartEvery = 80 * time.Millisecond
	// OfferAgain is the time after which a worker without an activity is offered another one.
	OfferAgain = 2 * time.Second
	// EjectedFor is how long a lane that left its share because of a refusal stays away, if no batch
	// of its topic takes it.
	EjectedFor = 10 * time.Second
)
