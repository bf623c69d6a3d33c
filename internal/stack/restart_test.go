package stack

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestResume_BringsAPartBackAtItsAddressWithItsData(t *testing.T) {
	s, err := Start(t.Context(), Options{Only: []Part{Postgres}, Getenv: nothing, Status: io.Discard})
	require.NoError(t, err)
	defer s.Stop()
	url := strings.TrimPrefix(s.Env()[0], "DATABASE_URL=")
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 1 AS n")
	require.NoError(t, err)

	require.NoError(t, s.Interrupt(Postgres))
	_, err = pgx.Connect(t.Context(), url)
	require.Error(t, err)
	require.NoError(t, s.Resume(t.Context(), Postgres))
	conn, err = pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n))
	require.NoError(t, s.Err(), "it did not end by itself")
}

func TestInterrupt_NeedsADurableTemporal(t *testing.T) {
	opt := Options{Only: []Part{Temporal}, Getenv: nothing, Status: io.Discard}
	if !haveTemporal(opt.withDefaults().ToolsDir) {
		t.Skip("would have to build Temporal's dev server: run `go run ./localstack exec --only temporal -- true` once")
	}
	s, err := Start(t.Context(), opt)
	require.NoError(t, err)
	require.ErrorContains(t, s.Interrupt(Temporal), "Durable")
	s.Stop()

	opt.Durable = true
	s, err = Start(t.Context(), opt)
	require.NoError(t, err)
	defer s.Stop()
	require.NoError(t, s.Interrupt(Temporal))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Resume(ctx, Temporal))
}
