// Package outbox writes events into the transactional outbox, inside the
// transaction that makes the business change they tell of. Committing and
// announcing become one act: an event exists exactly if its transaction
// committed, and the relay then publishes it to Amazon SNS or SQS at least
// once. Publishing from the service itself cannot promise that, because a crash
// between COMMIT and Publish loses the event, and the other order announces
// what may still be rolled back.
//
// The first use is one call before the commit:
//
//	payload, err := outbox.JSON(order)
//	if err != nil {
//		return err
//	}
//	err = outbox.Write(ctx, tx, outbox.Event{
//		Topic: "orders", Key: order.ID, Type: "order.placed", Payload: payload,
//	})
//
// Any number of events costs one round trip. Nothing here talks to AWS, to
// Temporal or to a network other than the transaction's own connection.
//
// # Validation
//
// What SQS or SNS would refuse for ever is refused by [Write] before anything
// is sent to the database, while the code that can repair it is still running.
// All problems of all events come back together as [ValidationErrors], and the
// transaction stays usable. [Event.Validate] applies the same rules without a
// transaction.
//
// # Order
//
// Events of one key reach a FIFO destination in the order of their ids, and ids
// are in commit order only if the transactions of that key follow one another.
// A service that updates the aggregate's row before it writes the event has
// that already: the row lock does it. Otherwise set [Writer.SerializeKeys].
// Events with an empty key are not ordered among each other.
//
// # Tracing
//
// When ctx carries a valid OpenTelemetry span context, its W3C traceparent is
// stored with each event and published as the message attribute "traceparent".
// The tracestate is not carried: AWS allows ten attributes, and its contents
// concern tracing vendors rather than consumers.
//
// # Pools, proxies and protocols
//
// Only the transaction's own state is used, so that PgBouncer in transaction
// mode and every query execution mode of pgx work. A pool or a bare connection
// is not accepted: without a transaction there is nothing to be atomic with.
package outbox
