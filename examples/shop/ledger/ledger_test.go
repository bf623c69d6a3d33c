package ledger_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/examples/shop/ledger"
	"github.com/temporal-outbox/relay/examples/shop/queue"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

func entry(number, balance int) queue.Message {
	return queue.Message{
		ID: outbox.NewID(), Type: "AccountCharged",
		Body: fmt.Sprintf(`{"account":"a","number":%d,"cents":1,"balance":%d,"order":"1"}`, number, balance),
	}
}

func TestLedger_AppliesEntriesOnceAndInTheirOrder(t *testing.T) {
	db := testenv.Database(t)
	_, err := db.Exec(t.Context(), ledger.Tables)
	require.NoError(t, err)
	s := ledger.Service{DB: db}
	for i, c := range []struct {
		message queue.Message
		applied bool
		err     error
		balance int
	}{
		{entry(2, 20), false, ledger.ErrTooEarly, 0},
		{entry(1, 10), true, nil, 10},
		{entry(1, 10), false, nil, 10},
		{entry(3, 30), false, ledger.ErrTooEarly, 10},
		{entry(2, 20), true, nil, 20},
		{entry(3, 30), true, nil, 30},
		{entry(2, 20), false, nil, 30},
	} {
		applied, err := s.Handle(t.Context(), c.message)
		require.ErrorIs(t, err, c.err, "step %d", i)
		assert.Equal(t, c.applied, applied, "step %d", i)
		var balance int
		require.NoError(t, db.QueryRow(t.Context(), `SELECT coalesce(max(balance), 0) FROM shop.ledger`).Scan(&balance))
		assert.Equal(t, c.balance, balance, "step %d", i)
	}
}
