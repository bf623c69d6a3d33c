package awsapi

import (
	"context"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// MaxEvents is AWS's limit for a batch request, of both services.
const MaxEvents = 10

// EntryIDs name the entries inside a request. AWS only wants them to be distinct.
var EntryIDs = [MaxEvents]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}

// Batch has the body of one batch request at a time, and accounts for its entries. An entry that the response
// leaves out has no outcome: with the batch APIs, a status of 200 says nothing about the single
// entry.
type Batch struct {
	entries  int
	outcomes [MaxEvents]destination.Outcome
	delivery delivery
	body     detach.Body
}

// Buffer returns an empty buffer for a body of about so many bytes.
func (b *Batch) Buffer(size int) []byte { return b.body.Buffer(size) }

// Begin prepares for a request with so many entries and this body, and returns the context to send
// it with. The body is the batch's until Answer.
func (b *Batch) Begin(ctx context.Context, entries int, body []byte) context.Context {
	b.entries = entries
	b.body.Set(body)
	clear(b.outcomes[:])
	b.delivery = delivery{}
	return detach.WithBody(context.WithValue(ctx, deliveryKey{}, &b.delivery), &b.body)
}

// Accepted notes an entry of the response's successful list.
func (b *Batch) Accepted(id, messageID *string) {
	if i, ok := b.index(id); ok && b.outcomes[i] == (destination.Outcome{}) {
		b.outcomes[i] = destination.Outcome{Accepted: true, MessageID: orElse(messageID, "")}
	}
}

// Failed notes an entry of the response's failed list. If an entry is on both
// lists, this one counts: to publish twice is better than not at all.
func (b *Batch) Failed(id, code, message *string, senderFault bool) {
	i, ok := b.index(id)
	if !ok {
		return
	}
	err := errorcode.New(orElse(code, relay.CodeResponse), errorcode.Shorten(orElse(message, "")))
	err.SenderFault = senderFault
	b.outcomes[i] = destination.Outcome{Err: err}
}

// Answer ends the request. The error is that of the call: the request failed as a whole.
func (b *Batch) Answer(err error) destination.Answer {
	b.body.Done()
	a := destination.Answer{Outcomes: b.outcomes[:b.entries]}
	if err != nil {
		a = destination.Failed(Error(err))
	}
	a.DeliveryUncertain, a.Throttled = b.delivery.uncertain, b.delivery.throttled
	return a
}

// index returns the entry with that id. A response may contain anything,
// so an id that was never sent is no entry.
func (b *Batch) index(id *string) (int, bool) {
	if id == nil || len(*id) != 1 {
		return 0, false
	}
	i := int((*id)[0]) - '0'
	return i, i >= 0 && i < b.entries
}

func orElse(s *string, otherwise string) string {
	if s == nil || *s == "" {
		return otherwise
	}
	return *s
}
