// Package bench measures the relay as it runs in production: the built worker as a
// process of its own, a real schedule, a real Temporal server, PostgreSQL with its
// defaults. The important figures of the design need all parts together: the rate of a
// drain, the latency of an event, the activities per thousand events, and the gaps
// between runs.
//
// Absolute figures depend on the machine as much as on the relay. So each figure has a
// reference in the same run: the drain is measured between two measurements of the
// emulator's ceiling, and each variant between two plain drains.
//
// The rows of the table of goals (rowPlans) may be measured several times. Most of them
// use a destination of their own, package sink, because the emulator takes as much
// processor time as the relay and cannot delay its answers.
//
// Each run has a database, queues and a Temporal namespace of its own, and removes them
// at the end.
package bench
