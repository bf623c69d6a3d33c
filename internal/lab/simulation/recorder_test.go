package simulation

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/outbox"
)

func TestRecorder_TakesLatencyFromCommitToFirstReceiptOfEachQueue(t *testing.T) {
	r := newRecorder()
	began := time.Now()
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	r.committed([]outbox.Event{{ID: paid, Topic: order.TopicOrders, Type: order.Paid}}, at(0))
	assert.Equal(t, 2, r.missing())
	r.received(Receipt{Queue: queueInventory, Event: paid}, at(10))(Applied)
	r.received(Receipt{Queue: queueInventory, Event: paid}, at(5000))(Suppressed)
	r.received(Receipt{Queue: queueBilling, Event: paid}, at(30))(Applied)
	assert.Zero(t, r.missing())
	f := r.figures()
	assert.Equal(t, map[string]int{queueInventory: 2, queueBilling: 1}, f.received)
	assert.Equal(t, 10*time.Millisecond, f.p50)
	assert.Equal(t, 30*time.Millisecond, f.p99)
}

func TestRecorder_SeesAReceiptBeforeItsCommit(t *testing.T) {
	r := newRecorder()
	now := time.Now()
	r.received(Receipt{Queue: queueInventory, Event: placed}, now)(Applied)
	r.committed([]outbox.Event{{ID: placed, Topic: order.TopicOrders, Type: order.Placed}}, now.Add(time.Millisecond))
	assert.Zero(t, r.missing())
	assert.Equal(t, []time.Duration{0}, r.latencies)
}

func TestRecorder_DoesNotWaitForRolledBackEvents(t *testing.T) {
	r := newRecorder()
	r.rolledBack([]outbox.Event{{ID: rolledBack, Topic: order.TopicOrders, Type: order.Placed}})
	assert.Zero(t, r.missing())
	assert.Equal(t, 1, r.figures().rolledBack)
	assert.Zero(t, r.figures().events)
}

func TestView_DrawsFramesOverEachOtherAndNeverWraps(t *testing.T) {
	var v view
	var out strings.Builder
	f := frame{state: "customers are ordering", duration: time.Second, ui: strings.Repeat("long", 40)}
	v.redraw(&out, f.block(), 80)
	first := out.Len()
	v.redraw(&out, f.block(), 80)
	assert.True(t, strings.HasPrefix(out.String()[first:], "\x1b[9A"), "goes up as many lines as it drew")
	for line := range strings.Lines(out.String()) {
		line = strings.NewReplacer("\x1b[9A", "", "\x1b[K", "", "\r", "", "\n", "").Replace(line)
		assert.Less(t, len([]rune(line)), 80)
	}
}

func TestView_WithoutFiguresShowsZeros(t *testing.T) {
	f := frame{figures: newRecorder().figures(), duration: time.Second, pending: -1}
	assert.Contains(t, f.line(), "orders 0 · rolled back 0")
}
