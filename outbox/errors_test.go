package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/outbox"
)

// unreachable is a transaction whose every method panics: whatever passes with
// it sent nothing to a database.
type unreachable struct{ pgx.Tx }

func TestWrite_ReportsAllProblemsOfAllEventsWithTheirPositions(t *testing.T) {
	err := outbox.Write(context.Background(), unreachable{},
		event(topic(""), payload("\x00")), event(), event(attribute("a b", ""), key("\xff")))

	var problems outbox.ValidationErrors
	if !errors.As(err, &problems) {
		t.Fatalf("%v is not ValidationErrors", err)
	}
	type place struct {
		index int
		field string
	}
	var got []place
	for _, p := range problems {
		got = append(got, place{p.Index, p.Field})
	}
	want := []place{{0, "Topic"}, {0, "Payload"}, {2, "Key"}, {2, "Attributes"}, {2, "Attributes"}}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("problem %d: %v, want %v", i, got[i], want[i])
		}
	}

	const text = `write events: event 0: Topic is empty; event 0: Payload has U+0000 at byte 0, which SNS or SQS does not deliver; ` +
		`event 2: Key is not valid UTF-8; ` +
		`event 2: Attributes "a b": name may have only A-Z, a-z, 0-9, underscore, hyphen and period; ` +
		`event 2: Attributes "a b": value is empty`
	if err.Error() != text {
		t.Errorf("got  %s\nwant %s", err, text)
	}
}

func TestValidationErrors_CutALongListAndCountTheRest(t *testing.T) {
	err := outbox.Write(context.Background(), unreachable{}, make([]outbox.Event, 1000)...)
	if text := err.Error(); len(text) > 1000 || !strings.HasSuffix(text, "; and 2990 more") {
		t.Errorf("%s", text)
	}
}

func TestValidationErrors_NeverShowPayloadKeyOrValues(t *testing.T) {
	const secret = "hunter2"
	err := event(payload(secret+"\x00"), key(secret+"\x00"), attribute("x", secret+"\x00"), kind(secret+"\x00")).Validate()
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
}

func TestWrite_RefusesTheSameIDTwiceInOneCall(t *testing.T) {
	id := outbox.NewID()
	same := func(e *outbox.Event) { e.ID = id }
	err := outbox.Write(context.Background(), unreachable{}, event(), event(same), event(), event(same))
	var problem *outbox.ValidationError
	if !errors.As(err, &problem) || problem.Index != 3 || problem.Field != "ID" || !strings.Contains(problem.Reason, "event 1's") {
		t.Errorf("%v", err)
	}
}

func TestWrite_OfNothingSendsNothing(t *testing.T) {
	if err := outbox.Write(context.Background(), unreachable{}); err != nil {
		t.Error(err)
	}
}

func TestWrite_AcceptsOnlyATransaction(t *testing.T) {
	for _, v := range []any{(*pgxpool.Pool)(nil), (*pgxpool.Conn)(nil), (*pgx.Conn)(nil)} {
		if _, ok := v.(pgx.Tx); ok {
			t.Errorf("%T passes for a transaction", v)
		}
	}
}
