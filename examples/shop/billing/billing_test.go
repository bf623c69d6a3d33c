package billing_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/examples/shop/billing"
	"github.com/temporal-outbox/relay/examples/shop/queue"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

func TestBilling_MakesOneInvoiceOrCreditNoteOfEachEvent(t *testing.T) {
	db := testenv.Database(t)
	_, err := db.Exec(t.Context(), billing.Tables)
	require.NoError(t, err)
	s := billing.Service{DB: db}
	body := `{"order":"1","account":"a","cents":500}`
	payment := queue.Message{ID: outbox.NewID(), Type: "OrderPaid", Body: body}
	for _, want := range []bool{true, false} {
		applied, err := s.Handle(t.Context(), payment)
		require.NoError(t, err)
		assert.Equal(t, want, applied)
	}
	_, err = s.Handle(t.Context(), queue.Message{ID: outbox.NewID(), Type: "OrderRefunded", Body: body})
	require.NoError(t, err)
	var rows, sum int
	require.NoError(t, db.QueryRow(t.Context(), `SELECT count(*), sum(cents) FROM shop.invoices`).Scan(&rows, &sum))
	assert.Equal(t, 2, rows)
	assert.Zero(t, sum)
}

func TestBilling_RefusesAnEventThatItDidNotAskFor(t *testing.T) {
	_, err := billing.Service{}.Handle(t.Context(), queue.Message{Type: "OrderPlaced", Body: "{}"})
	require.ErrorContains(t, err, "filter policy")
}
