// Package faults is an HTTP proxy between the relay and an SNS/SQS endpoint. It injects
// the faults of AWS and of networks that no emulator has: answers that accept a part of
// a batch, that leave an entry out or never arrive, throttling, denied access.
//
// It understands the two protocols of the Go SDK, SNS's query protocol with XML and
// SQS's JSON. So it can take single entries out of a batch: an entry that it reports as
// failed was not accepted.
//
// A run switches rules on and off. The random numbers have a seed, but a run is not
// reproducible request by request, because requests are concurrent. Consumers do not use
// the proxy.
package faults
