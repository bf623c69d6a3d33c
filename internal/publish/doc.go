// Package publish brings events to their destinations and reports one outcome for
// each of them.
//
// It exists because the batch APIs of Amazon SNS and SQS make it easy to lose or
// reorder events and hard to notice: a response with status 200 may contain
// failed entries, or leave an entry out; one batch has a limit in entries and
// another in bytes, and the second is different for every destination; a retry
// may overtake its successor. Here every event handed in gets exactly one
// outcome, or is counted as not sent, and on FIFO destinations an event waits
// until the one before it with the same key is acknowledged.
//
// The parts, from the outside in:
//
//   - config.go and publisher.go know the configured topics, look their destinations
//     up, and answer questions about them.
//   - publish.go publishes the events of one topic until they end.
//   - stream.go sends the events of many topics until it is closed. inbox.go takes them from
//     other goroutines, and lookups.go looks destinations up beside the sending.
//   - loop.go sends, from events in to outcomes out. One goroutine owns all state;
//     request.go is a request in flight, the only thing that another goroutine holds.
//   - rota.go decides which outlet may start the next request, and bounds the requests in
//     flight. It is tested against a model.
//   - outlet.go decides which events the next request carries. It is made of queue.go,
//     which keeps the order of keys and is tested against a model, requestsize.go, which
//     learns how large a request may be, and divide.go, which finds the event for which
//     a whole request was rejected.
//   - unroutable.go stands in for a destination that is not there.
//   - tracing.go decorates a destination: it makes a span of every request.
//
// The folders below do not know of the loop:
//
//   - destination is the port that each kind of destination implements.
//   - sns and sqs are its first two implementations. They share awsapi, which calls
//     AWS and accounts for every entry of a batch, message, which turns an event into a
//     message, and detach, which guards requests on their way through the SDK.
//   - limit finds how many requests a destination should have in flight. All calls of
//     Publish, and all senders, share its limiter.
//   - errorcode knows the reaction to every error code. Outcomes carry its verdict;
//     acting on it is the caller's business.
package publish
