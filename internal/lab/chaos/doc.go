// Package chaos runs the relay while everything around it fails, and checks that it
// keeps its promises: committed events arrive in order and unchanged, events that were
// rolled back do not arrive, and nothing is stuck.
//
//   - plan decides from a seed which fault happens when.
//   - load writes events and notes the outcome of every transaction.
//   - faults and tcp stand between the relay and AWS, and the relay and PostgreSQL.
//   - workers runs the real worker as processes, and kills and stalls them.
//   - consume drains the queues and records every message.
//   - ondisk keeps records in files, so that a run may be long.
//   - check judges the records; it imports none of the others.
//   - mutant is a worker that breaks a promise, to show that check sees it.
//
// This package puts them together.
package chaos
