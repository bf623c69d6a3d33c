// Package e2e proves the promises from one end to the other: the real worker and
// starter programs, PostgreSQL, a Temporal server and an SNS/SQS endpoint, and
// events that a producer writes and a consumer receives. It has tests only.
package e2e
