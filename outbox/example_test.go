package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/outbox"
)

// The business change and its event commit together, or neither does.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET status = 'placed' WHERE id = $1", "o-42"); err != nil {
			return err
		}
		payload, err := outbox.JSON(map[string]any{"order": "o-42", "total": 1999})
		if err != nil {
			return err
		}
		return outbox.Write(ctx, tx, outbox.Event{
			Topic:   "orders",
			Key:     "o-42",
			Type:    "order.placed",
			Payload: payload,
		})
	})
	pool.Close()
	if err != nil {
		log.Fatal(err)
	}
}

// Services that lock no row before they write an event let the writer keep the
// transactions of one key in sequence.
func ExampleWriter() {
	writer := outbox.Writer{SerializeKeys: true}

	place := func(ctx context.Context, tx pgx.Tx, orders ...string) error {
		var events []outbox.Event
		for _, order := range orders {
			payload, err := outbox.JSON(map[string]string{"order": order})
			if err != nil {
				return err
			}
			events = append(events, outbox.Event{
				Topic: "orders", Key: order, Type: "order.placed", Payload: payload,
			})
		}
		return writer.Write(ctx, tx, events...) // all in one call, one round trip
	}
	_ = place
}

// An error is returned before anything is written, so the transaction rolls back.
func ExampleJSON() {
	place := func(ctx context.Context, tx pgx.Tx, customer string, cents int) error {
		payload, err := outbox.JSON(struct {
			Customer string `json:"customer"`
			Cents    int    `json:"cents"`
		}{customer, cents})
		if err != nil {
			return err
		}
		return outbox.Write(ctx, tx, outbox.Event{Topic: "orders", Type: "order.placed", Payload: payload})
	}
	_ = place

	fmt.Println(outbox.JSON(map[string]any{"customer": `Smith & "Sons"`, "cents": 1999}))
	fmt.Println(outbox.JSON(make(chan int)))
	// Output:
	// {"cents":1999,"customer":"Smith & \"Sons\""} <nil>
	//  encode payload as JSON: json: unsupported type: chan int
}

// A caller that needs an event's id chooses it.
func ExampleNewID() {
	reserve := func(ctx context.Context, tx pgx.Tx, payload string) (outbox.ID, error) {
		id := outbox.NewID()
		return id, outbox.Write(ctx, tx, outbox.Event{
			ID: id, Topic: "stock", Type: "stock.reserved", Payload: payload,
		})
	}
	_ = reserve
}

func ExampleEvent_Validate() {
	err := outbox.Event{
		Topic:      "orders",
		Type:       "order.placed",
		Payload:    "total:\x00",
		Attributes: map[string]string{"AWS.region": "eu-west-1"},
	}.Validate()

	var problems outbox.ValidationErrors
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Println(p.Field, p.Reason)
		}
	}
	// Output:
	// Payload has U+0000 at byte 6, which SNS or SQS does not deliver
	// Attributes "AWS.region": name begins with a prefix that AWS reserves
}

func ExampleEvent_Size() {
	e := outbox.Event{Topic: "orders", Type: "order.placed", Payload: `{"order":"o-42"}`}
	fmt.Println(len(e.Payload), e.Size(), e.Size() <= outbox.MaxSize)
	// Output: 16 200 true
}

// Consumers read the id from the message attribute "event_id".
func ExampleParseID() {
	id, err := outbox.ParseID("0198F2A1-7C3B-7DEF-8123-456789ABCDEF")
	fmt.Println(id, err)
	// Output: 0198f2a1-7c3b-7def-8123-456789abcdef <nil>
}
