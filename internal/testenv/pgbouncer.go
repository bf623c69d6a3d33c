package testenv

import (
	"errors"
	"testing"

	"github.com/temporal-outbox/relay/internal/stack"
)

// PgBouncer puts a pooler in transaction mode, with at most so many connections
// to the server, in front of a database, and returns the database's URL by way of
// it. It ends with the test. If PgBouncer is not installed, the test ends as it
// does for any part that is missing.
func PgBouncer(t testing.TB, database string, conns int) (url string) {
	t.Helper()
	p, err := stack.StartPgBouncer(t.Context(), database, conns)
	if errors.Is(err, stack.ErrNoPgBouncer) {
		missing(t, "%v", err)
	}
	if err != nil {
		t.Fatalf("put PgBouncer in front of the test database: %v", err)
	}
	t.Cleanup(p.Stop)
	return p.URL
}
