// Package faults is an HTTP proxy between the relay and an SNS/SQS endpoint that
// injects what AWS and networks do and no emulator does: answers that accept a
// part, that leave an entry out or never arrive, throttling, denied access.
//
// It speaks the two protocols that the Go SDK speaks, SNS's query protocol with
// XML and SQS's JSON, well enough to take single entries out of a batch, so that
// what it reports as failed was not accepted either.
//
// What it does is a set of rules that are switched on and off while it runs. The
// dice are seeded; which request meets which throw is not reproducible, because
// requests are concurrent. Consumers go past it.
package faults
