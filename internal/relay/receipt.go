package relay

import (
	"errors"
	"time"
)

// Receipt says that a destination acknowledged an event, and under which message id. A
// message that is sent twice has two.
type Receipt struct {
	Ref
	Topic       string
	MessageID   string // empty if the destination gave none
	Destination string // ARN or URL
	// At is when the acknowledgement arrived, by the clock of this process, with its
	// monotonic reading. The store converts it to the database's time.
	At time.Time
}

// ErrReceiptsRefused says that the store will never take these receipts: their day has no
// partition, for example.
var ErrReceiptsRefused = errors.New("receipts refused")
