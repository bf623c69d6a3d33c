package simulation

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errOnPurpose is a failure that the simulation caused.
var errOnPurpose = errors.New("failed on purpose")

// failingCommits is a database on which some transactions fail at the last moment,
// after everything has been written: as when a constraint is checked at COMMIT,
// or the process dies just before. The service does not notice it.
type failingCommits struct {
	*pgxpool.Pool
	share float64
}

// Begin starts a transaction whose commit may fail.
func (u failingCommits) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := u.Pool.Begin(ctx)
	if err != nil || rand.Float64() >= u.share {
		return tx, err
	}
	return failingCommit{tx}, nil
}

// failingCommit is a transaction that never commits.
type failingCommit struct{ pgx.Tx }

// Commit rolls back and says so.
func (d failingCommit) Commit(ctx context.Context) error {
	if err := d.Rollback(ctx); err != nil {
		return err
	}
	return errOnPurpose
}
