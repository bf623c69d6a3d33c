// Package publish brings events to Amazon SNS and SQS and says of each one what
// became of it.
//
// It exists because the batch APIs of both services make it easy to lose or
// reorder events and hard to notice: a response with status 200 may contain
// failed entries, or leave an entry out; one batch has a limit in entries and
// another in bytes, and the second is different for every destination; a retry
// may overtake its successor. Here every event handed in gets exactly one
// outcome, or is counted as not sent, and on FIFO destinations an event waits
// until the one before it with the same key is acknowledged.
//
// The parts, from the inside out:
//
//   - pack.go decides what may go into the next request. It is pure: no clock,
//     no network, no goroutines, so that it can be tested against a model.
//   - message.go turns an event into what AWS wants: attributes, size, group and
//     deduplication ids.
//   - sns.go and sqs.go send one request each and account for every entry.
//   - trace.go knows the trace that an event was written in, and tracing.go
//     decorates a sender: it makes a span of every request, linked to those traces.
//   - listing.go finds SNS topics by name, in accounts of any size.
//   - resolve.go finds out where a topic's events go and how large they may be.
//   - stream.go runs it all, with several requests at once and one goroutine that
//     owns the state; fill.go starts requests, at the topic's pace, and divide.go
//     finds the event that a whole request was refused for.
//   - errorcode knows the reaction to every error code. Outcomes carry its
//     verdict; acting on it is the caller's business.
package publish
