// Package stack starts what the relay needs on one machine, without Docker:
// PostgreSQL from local binaries, Temporal's dev server with its UI, and an
// SNS/SQS emulator. It exists so that the demo, the tests, the benchmark and a
// developer's shell all run against the same real parts, on free ports, beside
// each other, and leave nothing behind.
//
// A part that the environment names (DATABASE_URL, TEMPORAL_ADDRESS,
// AWS_ENDPOINT_URL) is used and not started.
package stack
