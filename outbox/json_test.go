package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/outbox"
)

func TestJSON_OfAnyTextIsAPayloadThatDecodesToTheSameText(t *testing.T) {
	texts := rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{
			"", `a "quoted" name`, `back\slash`, "\x00\x01\x1f\x7f\u0080", "\a\v", // %q writes \a, \v and \x00, which are not JSON
			"<a href=\"x\">R&D</a>", "\u2028\u2029", "\ufffd\ufffe\uffff", "注文 😀", `\ufffe`,
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		text := texts.Draw(t, "text")
		encoded, err := outbox.JSON(map[string]string{text: text})
		if err != nil {
			t.Fatal(err)
		}
		if err := event(payload(encoded)).Validate(); err != nil {
			t.Fatalf("%q is refused: %v", encoded, err)
		}
		var decoded map[string]string
		if err := json.Unmarshal([]byte(encoded), &decoded); err != nil || decoded[text] != text || len(decoded) != 1 {
			t.Fatalf("%q becomes %q, %v", text, decoded, err)
		}
	})
}

func TestJSON_WritesHTMLAsItIsAndOnOneLine(t *testing.T) {
	for want, v := range map[string]any{
		`{"name":"<R&D>","total":1999}`: struct {
			Name  string `json:"name"`
			Total int    `json:"total"`
		}{"<R&D>", 1999},
		`{"a":1,"b":"<&>"}`: json.RawMessage("{\n  \"a\": 1,\n  \"b\": \"<&>\"\n}\n"),
		`{"a":1,"b":2}`:     map[string]int{"b": 2, "a": 1}, // the same text at every attempt
		`"text"`:            "text",
		`null`:              nil,
		`"\ufffe"`:          "\ufffe",
	} {
		if got, err := outbox.JSON(v); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

func TestJSON_SaysWhyAValueCannotBeEncoded(t *testing.T) {
	_, err := outbox.JSON(map[string]any{"refund": make(chan int)})
	var kind *json.UnsupportedTypeError
	if !errors.As(err, &kind) || err.Error() != "encode payload as JSON: json: unsupported type: chan int" {
		t.Errorf("%v", err)
	}
	_, err = outbox.JSON(math.NaN())
	var value *json.UnsupportedValueError
	if !errors.As(err, &value) {
		t.Errorf("%v", err)
	}
}

// A caller that forgets the error must not commit without its event.
func TestJSON_ThatFailedIsNoPayloadThatWriteAccepts(t *testing.T) {
	body, _ := outbox.JSON(func() {})
	err := outbox.Write(context.Background(), unreachable{}, event(payload(body)))
	var problem *outbox.ValidationError
	if !errors.As(err, &problem) || problem.Field != "Payload" {
		t.Errorf("%q: %v", body, err)
	}
}
