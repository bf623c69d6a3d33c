package cli

import (
	"fmt"
	"slices"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
)

// notPendingText says of an event that is not pending how much is known. Its first delivery
// has a receipt, or it may never have become pending.
func notPendingText(e postgres.EventLife) string {
	if slices.ContainsFunc(e.Receipts, func(r postgres.Receipt) bool { return r.Replay == 0 }) {
		return e.State + ": it was published"
	}
	return e.State + ": it was published, unless it never became pending (only a receipt proves publication)"
}

// receiptText says when one message was published, under which id, and where to.
func receiptText(r postgres.Receipt) string {
	text := "published " + instantText(r.PublishedAt)
	if r.Replay != 0 {
		text = fmt.Sprintf("replay %d: %s", r.Replay, text)
	}
	if r.MessageID == "" {
		return text + " to " + printable.Line(r.Destination)
	}
	return text + " as message " + printable.Line(r.MessageID) + " to " + printable.Line(r.Destination)
}

// receiptFields are an event's receipts, or why there is none.
func receiptFields(e postgres.EventLife) (fields [][2]string) {
	for _, r := range e.Receipts {
		fields = append(fields, [2]string{"receipt", receiptText(r)})
	}
	switch {
	case len(fields) > 0:
	case e.ReceiptsUnknown:
		fields = append(fields, [2]string{"receipts", "unknown: this database role may not read outbox.receipt, or the outbox is older than this program"})
	case e.ReceiptsSince == nil:
		fields = append(fields, [2]string{"receipts", "off for the topic " + printable.Line(e.Topic) + ": set \"receipts: 7d\" in the worker's configuration to store the time and message id of each publication"})
	case e.Gone:
		fields = append(fields, [2]string{"receipts", fmt.Sprintf("none: receipts of this topic are kept for %s, and only since %s", e.ReceiptsFor, instantText(*e.ReceiptsSince))})
	case e.Published:
		fields = append(fields, [2]string{"receipts", "none: the receipt is written a moment after the publication, or it was lost (outbox_receipts_lost_total)"})
	}
	return fields
}
