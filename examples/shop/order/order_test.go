package order_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	db := testenv.Database(t)
	_, err := db.Exec(t.Context(), order.Tables+`; INSERT INTO shop.accounts VALUES ('a')`)
	require.NoError(t, err)
	return db
}

func sample(id string) order.Order {
	return order.Order{ID: id, Account: "a", Product: "cup", Quantity: 2, Cents: 500}
}

// strings are the rows of a query with one column.
func strings(t *testing.T, db *pgxpool.Pool, sql string) []string {
	t.Helper()
	rows, err := db.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

const written = `SELECT topic || ' ' || key || ' ' || type FROM outbox.event ORDER BY id`

func TestService_AnnouncesEveryChange(t *testing.T) {
	db := database(t)
	s := order.Service{DB: db}
	for _, change := range []func() ([]outbox.Event, error){
		func() ([]outbox.Event, error) { return s.Place(t.Context(), sample("1")) },
		func() ([]outbox.Event, error) { return s.Pay(t.Context(), "1") },
		func() ([]outbox.Event, error) { return s.Refund(t.Context(), "1") },
		func() ([]outbox.Event, error) { return s.Place(t.Context(), sample("2")) },
		func() ([]outbox.Event, error) { return s.Cancel(t.Context(), "2") },
	} {
		events, err := change()
		require.NoError(t, err)
		for _, e := range events {
			assert.False(t, e.ID.IsZero())
		}
	}
	assert.Equal(t, []string{
		"orders 1 OrderPlaced",
		"orders 1 OrderPaid", "ledger a AccountCharged",
		"orders 1 OrderRefunded", "ledger a AccountCredited",
		"orders 2 OrderPlaced",
		"orders 2 OrderCancelled",
	}, strings(t, db, written))
}

// atCommit is a database that fails when everything has been written.
type atCommit struct{ *pgxpool.Pool }

type failing struct{ pgx.Tx }

var errAtCommit = errors.New("connection lost")

func (db atCommit) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := db.Pool.Begin(ctx)
	return failing{tx}, err
}

func (tx failing) Commit(ctx context.Context) error {
	return errors.Join(errAtCommit, tx.Rollback(ctx))
}

func TestService_LeavesNoEventOfARolledBackChange(t *testing.T) {
	db := database(t)
	_, err := order.Service{DB: db}.Place(t.Context(), sample("1"))
	require.NoError(t, err)
	before := strings(t, db, written)

	s := order.Service{DB: atCommit{db}}
	for name, change := range map[string]func() ([]outbox.Event, error){
		"place":  func() ([]outbox.Event, error) { return s.Place(t.Context(), sample("2")) },
		"pay":    func() ([]outbox.Event, error) { return s.Pay(t.Context(), "1") },
		"cancel": func() ([]outbox.Event, error) { return s.Cancel(t.Context(), "1") },
	} {
		events, err := change()
		require.ErrorIs(t, err, errAtCommit, name)
		require.NotEmpty(t, events, "they were written: %s", name)
	}
	assert.Equal(t, before, strings(t, db, written))
	assert.Equal(t, []string{"1 placed"}, strings(t, db, `SELECT id || ' ' || status FROM shop.orders`))
	assert.Equal(t, []string{"0 0"}, strings(t, db, `SELECT balance || ' ' || entries FROM shop.accounts`))
}

func TestService_ChangesNothingThatTheStateForbids(t *testing.T) {
	db := database(t)
	s := order.Service{DB: db}
	_, err := s.Pay(t.Context(), "unknown")
	require.ErrorIs(t, err, order.ErrNotPossible)
	_, err = s.Place(t.Context(), sample("1"))
	require.NoError(t, err)
	_, err = s.Refund(t.Context(), "1")
	require.ErrorIs(t, err, order.ErrNotPossible)
	assert.Len(t, strings(t, db, written), 1)
}

func TestPay_TwiceAtOnceSucceedsOnce(t *testing.T) {
	db := database(t)
	s := order.Service{DB: db}
	_, err := s.Place(t.Context(), sample("1"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Pay(t.Context(), "1") })
	}
	wg.Wait()
	if errs[0] == nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	require.ErrorIs(t, errs[0], order.ErrNotPossible)
	require.NoError(t, errs[1])
	assert.Equal(t, []string{"500"}, strings(t, db, `SELECT balance::text FROM shop.accounts`))
}

func TestPay_NumbersLedgerEntriesInTheOrderOfTheirIDs(t *testing.T) {
	db := database(t)
	s := order.Service{DB: db}
	const orders = 20
	var wg sync.WaitGroup
	for i := range orders {
		wg.Go(func() {
			id := fmt.Sprint(i)
			if _, err := s.Place(t.Context(), sample(id)); err != nil {
				t.Error(err)
			}
			if _, err := s.Pay(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entries := strings(t, db, `SELECT payload FROM outbox.event WHERE topic = 'ledger' ORDER BY id`)
	require.Len(t, entries, orders)
	for i, text := range entries {
		var e struct{ Number, Cents, Balance int64 }
		require.NoError(t, json.Unmarshal([]byte(text), &e))
		assert.Equal(t, int64(i+1), e.Number)
		assert.Equal(t, e.Number*e.Cents, e.Balance)
	}
}
