package workflows

// What the Temporal UI shows as the details of a run, whatever its state: what the
// workflow is for, and what one may do to it. The state is in its current details.
const (
	RelayDetails = "Claims pending events of the outbox and publishes them. A run ends after two minutes, and the schedule starts the next at once. " +
		"The current details have the state of each topic. Terminating a run loses nothing: the next goes on."
	RecoveryDetails = "Owns a topic whose destination is broken. It tries one batch again until that gets through, at growing intervals of up to a minute, " +
		"and the topic waits meanwhile; then everything goes on by itself. The update *park* makes dead letters of what fails. " +
		"Cancelling or terminating it loses nothing: the relay tries the topic again, and starts another if it must."
	MaintenanceDetails = "Makes the event table's partitions for the days ahead, drops those that are expired and needed by nobody, and warns of what will hurt. " +
		"The result has what was done; the current details have the warnings."
)
