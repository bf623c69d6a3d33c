package workflows

// The details that the Temporal UI shows for a run, in every state. They explain the workflow's
// purpose and the actions that you may take. The state is in the run's current details.
const (
	RelayDescription = "Claims pending events of the outbox and publishes them. A run ends after two minutes, and the schedule starts the next one at once. " +
		"The current details show the state of each topic. You may terminate a run: no event is lost, and the next run continues with the pending events."
	RecoveryDescription = "Sends one batch of a broken topic again and again, at intervals that grow to a minute. The other events of the topic wait. " +
		"When the destination accepts the batch, this workflow ends and the topic continues by itself. The update *park* makes dead letters of the events that fail. " +
		"You may cancel or terminate this workflow: no event is lost. The relay then tries the topic again, and starts another recovery if the topic fails again."
	MaintenanceDescription = "Makes partitions of the table outbox.event for the next days, drops expired partitions that have no pending or dead events, and warns of problems. " +
		"The result lists the changes; the current details show the warnings."
)
