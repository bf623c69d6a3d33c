package plan

// Kind is a kind of fault, or of an operator's command. Kinds of package faults are kinds
// of a plan as well.
type Kind string

// Faults of workers.
const (
	Kill        Kind = "worker killed"                 // SIGKILL, and another one in its place
	Stall       Kind = "worker stalled"                // SIGSTOP past its heartbeat timeout, SIGCONT
	LongStall   Kind = "worker stalled past its lease" // the same, for more than a minute
	Terminate   Kind = "worker stopped"                // SIGTERM, and another one in its place
	Promote     Kind = "version promoted"              // a new version's workers take over
	LostRefusal Kind = "refusal lost"                  // all workers killed between a topic's pause and the answer that starts its recovery
	LostClaim   Kind = "claim lost"                    // all workers killed between a claim and its answer
)

// Faults of PostgreSQL and Temporal.
const (
	SlowDatabase    Kind = "database slow"
	ResetDatabase   Kind = "database connections reset"
	CutDatabase     Kind = "database cut off"
	RestartDatabase Kind = "database restarted"
	RestartTemporal Kind = "temporal restarted"
	LongCut         Kind = "database cut off past a run and a lease"
	FailOver        Kind = "lagging standby promoted"                 // the old primary never comes back
	FailOverEarly   Kind = "lagging standby promoted, reached before" // clients reach it as a reader for a while
	Restore         Kind = "earlier state restored"

	DropPartition      Kind = "partition dropped"    // or not, again and again, beside Maintenance
	ExhaustPartitions  Kind = "partitions exhausted" // the default partition catches what is written
	HoldWriter         Kind = "writer of another table held"
	PrepareTransaction Kind = "transaction prepared"
)

// Changes of destinations. Package faults has the faults of requests to them.
const (
	RecreateTopic Kind = "topic recreated"
	RecreateQueue Kind = "queue recreated"
	RouteTopic    Kind = "topic routed" // one that had no route until then
)

// Actions on the workflow Recovery of a topic, while access to its destination is denied.
const (
	TerminateRecovery Kind = "recovery terminated"
	PauseRecovery     Kind = "recovery paused"
	ResetRecovery     Kind = "recovery reset"
)

// Commands of operators. faults.Poison makes the dead letters for them.
const (
	PauseTopic  Kind = "topic paused"           // by an operator, who resumes it after a while
	RedriveDead Kind = "dead letters redriven"  // all that a topic has
	ReplayTopic Kind = "topic replayed"         // what was written lately, or all events of a key
	DiscardDead Kind = "dead letters discarded" // of one topic, made for this step

	RecoverTopic Kind = "recovery told to try" // of a topic whose destination was broken until then
	ParkTopic    Kind = "recovery told to park"
)
