package testenv

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"
)

// Sweep does what another test process does when it begins.
func Sweep(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return sweep(ctx, conn)
}
