// Command guide is the service that docs/guide.md begins with: it places one order, and
// writes an event about it. Everything that is not about the outbox is as short as
// possible; examples/shop is closer to a real service.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/outbox"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// run places the orders.
func run(ctx context.Context, orders []string) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, order := range orders {
		if err := place(ctx, pool, order); err != nil {
			return fmt.Errorf("place order %s: %w", order, err)
		}
		if err := remind(ctx, pool, order); err != nil {
			return fmt.Errorf("remind of order %s: %w", order, err)
		}
		fmt.Println("placed order", order)
	}
	return nil
}

// place writes an order and its event: both, or neither.
func place(ctx context.Context, pool *pgxpool.Pool, order string) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO public.orders (id, state) VALUES ($1, 'placed')`, order); err != nil {
			return err
		}
		payload, err := outbox.JSON(map[string]string{"order": order})
		if err != nil {
			return err
		}
		return outbox.Write(ctx, tx, outbox.Event{
			Topic:   "orders",
			Key:     order,
			Type:    "OrderPlaced",
			Payload: payload,
		})
	})
}

// remind changes no row, so no row lock keeps two transactions of one key apart: the
// writer takes a lock.
func remind(ctx context.Context, pool *pgxpool.Pool, order string) error {
	payload, err := outbox.JSON(map[string]string{"order": order})
	if err != nil {
		return err
	}
	writer := outbox.Writer{SerializeKeys: true}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		return writer.Write(ctx, tx, outbox.Event{
			Topic:   "orders",
			Key:     order,
			Type:    "PaymentReminded",
			Payload: payload,
		})
	})
}
