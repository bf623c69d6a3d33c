package activities

import (
	"context"
	"log/slog"
)

// carrier publishes the shares of one worker process: lane numbers of all topics.
type carrier struct {
	cfg carrierConfig
}

// carrierConfig is what a carrier needs beside the parts that it shares with the attempts of its
// worker. All are required except log.
type carrierConfig struct {
	worker string // the id of the process, a UUID
	name   string // for people
	shares ShareStore
	reads  ReadStore
	sender Sender
	log    *slog.Logger // default: slog.Default()
}

// Summary says in short what a worker does with its shares.
type Summary struct {
	// Lanes are the lane numbers that it holds, ascending.
	Lanes []int16 `json:"lanes"`
	// Topics is of how many topics it has published events since the seat began, and Published is
	// how many events.
	Topics    int `json:"topics"`
	Published int `json:"published"`
}

// newCarrier returns a carrier that shares the ledger, the receipts, the evidence about refusals, the
// policies of topics and the metrics with the attempts of a.
func newCarrier(a *Activities, c carrierConfig) *carrier {
	if c.log == nil {
		c.log = slog.Default()
	}
	return &carrier{cfg: c}
}

// run carries until ctx ends: while a seat lets it, it holds shares, reads what commits in them,
// sends and settles it. Then it waits for its requests in flight, settles, and gives its shares back.
func (c *carrier) run(ctx context.Context) { <-ctx.Done() }

// sit begins a seat, which lets the carrier hold shares. ok is false if it has a seat already. end
// ends the seat, and returns what was published during it; the carrier goes on for timing.SeatGrace.
func (c *carrier) sit(context.Context) (end func() Summary, ok bool) {
	return func() Summary { return Summary{} }, true
}

// summary is that of the seat. Without one, it is that of the last.
func (c *carrier) summary() Summary { return Summary{} }
