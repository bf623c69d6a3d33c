// Package stack starts what the relay needs on one machine, without Docker:
// PostgreSQL from local binaries, Temporal's dev server with its UI, and an
// SNS/SQS emulator. The commands in localstack, the tests and the benchmark all use it. So
// they run against the same real parts. Several stacks can run at once, on free ports, and
// a stack leaves nothing behind when it ends.
//
// If the environment names a part (DATABASE_URL, TEMPORAL_ADDRESS, AWS_ENDPOINT_URL), the
// stack uses that server and does not start one.
package stack
