// Package chaos runs the relay while everything around it fails, and proves that
// it kept its promises all the same: what was committed arrived, in order and as it
// was written, what was rolled back did not, and nothing is stuck.
//
//   - plan decides from a seed what goes wrong when.
//   - load writes events and remembers what became of every transaction.
//   - faults and tcp stand between the relay and AWS, and the relay and PostgreSQL.
//   - workers runs the real worker as processes, to be killed and stalled.
//   - consume drains the queues and records every message.
//   - ondisk keeps records in files, so that a run may be long.
//   - check judges what was recorded; it knows none of the others.
//   - mutant is a worker that breaks a promise, to show that check sees it.
//
// This package puts them together.
package chaos
