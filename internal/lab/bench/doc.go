// Package bench measures the relay the way it runs: the built worker as a
// process of its own, a real schedule, a real Temporal server, PostgreSQL with
// its defaults. It exists because the figures that decide about this design
// (what a backlog drains at, what an event waits, what a thousand events cost in
// activities, whether runs follow each other without a gap) cannot be seen in
// any part alone.
//
// Absolute figures say as much about the machine as about the relay, so every
// one of them is measured beside what it is to be compared with, in the same
// run: the drain between two measurements of the emulator's ceiling, and each
// variant between two plain drains.
//
// All that it makes is its own: a database, queues and a Temporal namespace for
// each run, removed at the end.
package bench
