package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

func TestWrite_ThatFailsValidationLeavesTheTransactionUsable(t *testing.T) {
	pool := testenv.Database(t)
	tx := begin(t, connect(t, pool))
	if err := outbox.Write(context.Background(), tx, event(), event(payload(""))); err == nil {
		t.Fatal("an event without payload is accepted")
	}
	if err := outbox.Write(context.Background(), tx, event(payload("second try"))); err != nil {
		t.Fatal(err)
	}
	commit(t, tx)
	if got := scan[string](t, pool, "SELECT string_agg(payload, ',') FROM outbox.event"); got != "second try" {
		t.Errorf("stored: %s", got)
	}
}

func TestWrite_InARolledBackTransactionLeavesNoEvent(t *testing.T) {
	pool := testenv.Database(t)
	tx := begin(t, connect(t, pool))
	if err := outbox.Write(context.Background(), tx, event()); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := scan[int](t, pool, "SELECT count(*) FROM outbox.event"); n != 0 {
		t.Errorf("%d events", n)
	}
}

func TestWrite_WorksInASavepointAndAPoolsTransaction(t *testing.T) {
	pool := testenv.Database(t)
	tx, err := pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for i, keep := range []bool{true, false} {
		savepoint, err := tx.Begin(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		w := outbox.Writer{SerializeKeys: true}
		if err := w.Write(context.Background(), savepoint, event()); err != nil {
			t.Fatal(i, err)
		}
		if keep {
			commit(t, savepoint)
		} else if err := savepoint.Rollback(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, tx)
	if n := scan[int](t, pool, "SELECT count(*) FROM outbox.event"); n != 1 {
		t.Errorf("%d events, want the kept savepoint's one", n)
	}
}

func TestWrite_InAnEndedTransactionIsAnError(t *testing.T) {
	tx := begin(t, connect(t, testenv.Database(t)))
	commit(t, tx)
	if err := outbox.Write(context.Background(), tx, event()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
}

func TestWrite_NamesTheOperationAndTheRemedyOfADatabaseError(t *testing.T) {
	pool := testenv.Database(t)
	for name, test := range map[string]struct{ before, code, text string }{
		"no table":  {"DROP SCHEMA outbox CASCADE", "42P01", `run "starter migrate"`},
		"no column": {"ALTER TABLE outbox.event RENAME COLUMN attributes TO other", "42703", `run "starter migrate"`},
		"no right":  {"SET LOCAL ROLE pg_monitor", "42501", "schema/README.md"},
		"other":     {"SET LOCAL transaction_read_only = on", "25006", "read-only"},
	} {
		for _, mode := range modes {
			for _, w := range []outbox.Writer{{}, {SerializeKeys: true}} {
				tx := begin(t, connect(t, pool, in(mode)))
				exec(t, tx, test.before)
				err := w.Write(context.Background(), tx, event())

				var pgErr *pgconn.PgError
				if !errors.As(err, &pgErr) || pgErr.Code != test.code {
					t.Fatalf("%s, %v: %v, want code %s", name, mode, err, test.code)
				}
				if !strings.HasPrefix(err.Error(), "write events: ") || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%s, %v: %v does not say %q", name, mode, err, test.text)
				}
				_ = tx.Rollback(context.Background())
			}
		}
	}
}

func TestWrite_NeedsOnlyTheRightsOfTheProducerRole(t *testing.T) {
	pool := testenv.Database(t)
	testenv.RoleURL(t, pool, "outbox_producer")
	tx := begin(t, connect(t, pool))
	exec(t, tx, "SET LOCAL ROLE outbox_producer")
	for _, w := range []outbox.Writer{{}, {SerializeKeys: true}} {
		if err := w.Write(context.Background(), tx, event(attribute("tenant", "a"))); err != nil {
			t.Fatalf("%+v: %v", w, err)
		}
	}
	exec(t, tx, "RESET ROLE")
	if n := scan[int](t, tx, "SELECT count(*) FROM outbox.pending"); n != 2 {
		t.Errorf("%d events pending, want 2", n)
	}
}
