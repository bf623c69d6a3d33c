package inventory_test

import (
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/examples/shop/inventory"
	"github.com/temporal-outbox/relay/examples/shop/queue"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

func service(t *testing.T) inventory.Service {
	t.Helper()
	db := testenv.Database(t)
	_, err := db.Exec(t.Context(), inventory.Tables+`; INSERT INTO shop.stock VALUES ('cup', 100)`)
	require.NoError(t, err)
	return inventory.Service{DB: db}
}

func message(kind string) queue.Message {
	return queue.Message{ID: outbox.NewID(), Type: kind, Body: `{"order":"1","product":"cup","quantity":3,"cents":9}`}
}

func stock(t *testing.T, db *pgxpool.Pool) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), `SELECT quantity FROM shop.stock WHERE product = 'cup'`).Scan(&n))
	return n
}

func TestInventory_MovesStockOnceForTheSameMessageTwice(t *testing.T) {
	s := service(t)
	m := message("OrderPlaced")
	applied, err := s.Handle(t.Context(), m)
	require.NoError(t, err)
	assert.True(t, applied)
	applied, err = s.Handle(t.Context(), m)
	require.NoError(t, err)
	assert.False(t, applied)
	assert.Equal(t, 97, stock(t, s.DB))
}

func TestInventory_MovesStockOnceForTheSameMessageAtOnce(t *testing.T) {
	s := service(t)
	m := message("OrderPlaced")
	var wg sync.WaitGroup
	results := make([]bool, 8)
	for i := range results {
		wg.Go(func() {
			var err error
			if results[i], err = s.Handle(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	times := 0
	for _, applied := range results {
		if applied {
			times++
		}
	}
	assert.Equal(t, 1, times)
	assert.Equal(t, 97, stock(t, s.DB))
}

func TestInventory_TakesAReturnBeforeItsOrder(t *testing.T) {
	s := service(t)
	for kind, want := range map[string]int{"OrderRefunded": 3, "OrderCancelled": 3, "OrderPlaced": -3, "OrderPaid": 0, "OrderPraised": 0} {
		before := stock(t, s.DB)
		applied, err := s.Handle(t.Context(), message(kind))
		require.NoError(t, err)
		assert.True(t, applied)
		assert.Equal(t, before+want, stock(t, s.DB), kind)
	}
}

func TestInventory_RemembersNoMessageThatFailed(t *testing.T) {
	s := service(t)
	m := message("OrderPlaced")
	m.Body = `{"product":"unknown","quantity":1}`
	_, err := s.Handle(t.Context(), m)
	require.ErrorContains(t, err, `no product "unknown"`)
	m.Body = `not JSON`
	_, err = s.Handle(t.Context(), m)
	require.ErrorContains(t, err, "parse OrderPlaced")

	_, err = s.DB.Exec(t.Context(), `INSERT INTO shop.stock VALUES ('unknown', 5)`)
	require.NoError(t, err)
	m.Body = `{"product":"unknown","quantity":1}`
	applied, err := s.Handle(t.Context(), m)
	require.NoError(t, err)
	assert.True(t, applied, "it comes back, and then has its effect")
}
