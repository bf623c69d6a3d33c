package simulation

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	enumspb "go.temporal.io/api/enums/v1"
)

func TestView_ShowsAnOutageAsTemporalShowsIt(t *testing.T) {
	const refused = "ledger → SNS topic ledger-events.fifo: 3 of 3 left: NotFound: Topic does not exist"
	running := glimpse{
		workflow: "outbox-recovery/ledger", status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		attempt: 4, failure: refused, next: after(17 * time.Second),
	}
	trying := running
	trying.next = time.Time{}
	for name, c := range map[string]struct {
		sight sight
		line  string
	}{
		"before": {sight{}, ""},
		"nobody has tried yet": {
			sight{from: after(10 * time.Second)},
			"ledger-events.fifo: gone for 4 s of 10 s\n       Temporal: no recovery yet",
		},
		"away": {
			sight{from: after(10 * time.Second), seen: running},
			"ledger-events.fifo: gone for 4 s of 10 s\n" +
				"       Temporal: outbox-recovery/ledger · attempt 4 · " + refused + " · next attempt in 3 s",
		},
		"an attempt is under way": {
			sight{from: after(10 * time.Second), seen: trying},
			"ledger-events.fifo: gone for 4 s of 10 s\n" +
				"       Temporal: outbox-recovery/ledger · attempt 4 · " + refused + " · under way",
		},
		"back, and not noticed": {
			sight{from: after(3 * time.Second), until: after(13 * time.Second), seen: running},
			"ledger-events.fifo: back; the next attempt will find it\n" +
				"       Temporal: outbox-recovery/ledger · attempt 4 · " + refused + " · next attempt in 3 s",
		},
		"over": {
			sight{
				from: after(3 * time.Second), until: after(13 * time.Second),
				seen: glimpse{workflow: "outbox-recovery/ledger", status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED},
			},
			"ledger-events.fifo: back\n       Temporal: outbox-recovery/ledger · completed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.sight.now, c.sight.lasts = after(14*time.Second), 10*time.Second
			assert.Equal(t, c.line, c.sight.line())
			assert.Len(t, c.sight.block(), 3, "frames are drawn over each other")
		})
	}
}
