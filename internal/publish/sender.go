package publish

import (
	"context"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// sender sends batch requests to one destination. Implemented for SNS and SQS.
type sender interface {
	// newRequest returns a request whose buffers are used again and again.
	newRequest() request
}

// request is one batch request at a time.
type request interface {
	// send publishes the entries, at most maxEntries, and returns what became
	// of each. It sets the messageID of those that were accepted, and retains neither
	// the entries nor anything of them.
	send(ctx context.Context, entries []*entry) answer
}

// newSender returns the sender for a resolved route.
func (p *Publisher) newSender(r Route) sender {
	if r.Service == SNS {
		return traced(&snsSender{client: p.clients.sns(r.Region), route: r}, p.tracer, r)
	}
	return traced(&sqsSender{client: p.clients.sqs(r.Region), route: r}, p.tracer, r)
}

// answer is what became of the entries of a request, by index: nil where the
// destination accepted one.
type answer [maxEntries]*relay.PublishError

// entryIDs name the entries inside a request. AWS only wants them to be distinct.
var entryIDs = [maxEntries]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}

// unanswered marks entries that the response has not mentioned yet.
var unanswered = new(relay.PublishError)

// failAll is the answer to a request that failed as a whole.
func failAll(err error) (a answer) {
	pe := publishError(err)
	pe.Whole = true
	for i := range a {
		a[i] = pe
	}
	return a
}

// reader accounts for the entries of a response. What the response leaves out
// stays unanswered: with the batch APIs, a status of 200 says nothing about the
// single entry.
type reader struct {
	answer  answer
	entries []*entry
}

func newReader(entries []*entry) *reader {
	r := &reader{entries: entries}
	for i := range entries {
		r.answer[i] = unanswered
	}
	return r
}

// index returns the entry with that id. A response may contain anything,
// so an id that was never sent is no entry.
func (r *reader) index(id *string) (int, bool) {
	if id == nil || len(*id) != 1 {
		return 0, false
	}
	i := int((*id)[0]) - '0'
	return i, i >= 0 && i < len(r.entries)
}

// accepted notes an entry of the response's successful list.
func (r *reader) accepted(id, messageID *string) {
	if i, ok := r.index(id); ok && r.answer[i] == unanswered {
		r.answer[i] = nil
		r.entries[i].messageID = orElse(messageID, "")
	}
}

// failed notes an entry of the response's failed list. If an entry is on both
// lists, this one counts: to publish twice is better than not at all.
func (r *reader) failed(id, code, message *string, senderFault bool) {
	i, ok := r.index(id)
	if !ok {
		return
	}
	r.answer[i] = errorcode.New(orElse(code, relay.CodeResponse), errorcode.Shorten(orElse(message, "")))
	r.answer[i].SenderFault = senderFault
}

// done returns the answer, complete.
func (r *reader) done() answer {
	for i, err := range r.answer {
		if err == unanswered {
			r.answer[i] = errorcode.New(relay.CodeUnanswered, "the response names the event neither as accepted nor as failed")
		}
	}
	return r.answer
}

func orElse(s *string, otherwise string) string {
	if s == nil || *s == "" {
		return otherwise
	}
	return *s
}
