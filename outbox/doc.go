// Package outbox writes events into the transactional outbox, inside the
// transaction of the business change that they announce. An event exists exactly
// if its transaction committed, and the relay then publishes it to Amazon SNS or
// SQS at least once. A service that publishes by itself cannot promise that: a
// crash between COMMIT and Publish loses the event, and in the other order the
// service announces a change that may still be rolled back.
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
// Any number of events costs one round trip. The package does not connect to AWS
// or Temporal, and uses only the transaction's own connection.
//
// No Go code takes the events from here. The INSERT fires the trigger "enqueue"
// of outbox.event: its function outbox.enqueue() checks each row and notes it in
// outbox.pending, in the same transaction. The relay looks there. The whole way
// is in docs/architecture.md.
//
// # Validation
//
// [Write] refuses events that SQS or SNS would refuse for ever. It does so before
// it sends data to the database, while the code that can repair the event still
// runs. It returns all problems of all events together as [ValidationErrors], and
// the transaction stays usable. [Event.Validate] applies the same rules without
// a transaction.
//
// # Order
//
// Events of one key reach a FIFO destination in the order of their ids, and ids
// are in commit order only if the transactions of that key follow one another.
// If a service updates the aggregate's row before it writes the event, the row
// lock ensures that. Otherwise set [Writer.SerializeKeys]. Events with an empty
// key have no order among each other.
//
// # Tracing
//
// If ctx has a valid OpenTelemetry span context, Write stores its W3C traceparent
// with each event, and the relay publishes it as the message attribute
// "traceparent". It omits the tracestate, because AWS allows only ten attributes,
// and a tracestate is for tracing vendors, not for consumers.
//
// # Pools, proxies and protocols
//
// The package uses only the transaction's own state, so it works with PgBouncer in
// transaction mode and with every query execution mode of pgx. It accepts neither a
// pool nor a connection without a transaction, because the event must be part of
// the caller's transaction.
package outbox
