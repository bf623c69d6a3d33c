package message

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestGroupID_IsLegalAndOneForEachKey(t *testing.T) {
	key := rapid.OneOf(rapid.String(), rapid.StringMatching(`[!-~]{1,130}`), rapid.StringMatching(`[a-z ]{1,20}`))
	rapid.Check(t, func(t *rapid.T) {
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		id := groupOnFIFO(&relay.Event{EventID: "event", Key: a})
		if len(id) == 0 || len(id) > 128 || strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
			t.Fatalf("%q is not a group id", id)
		}
		if (a == b) != (groupID(a) == groupID(b)) {
			t.Fatalf("keys %q and %q, groups %q and %q", a, b, groupID(a), groupID(b))
		}
	})
	for key, want := range map[string]string{
		"":                       "event",
		"order-1":                "order-1",
		strings.Repeat("~", 128): strings.Repeat("~", 128),
		// Kept for good: another hash would break the order of events in flight.
		"order 1":                "sha256:89bw1VsFP96wEWwur_106RE7L9GdfQZ1_YyHpDCZO40",
		strings.Repeat("x", 129): "sha256:DsnrM-dFELzdHy6lUgboLyFknFwr7L8rQz60dbNMAb0",
	} {
		assert.Equal(t, want, groupOnFIFO(&relay.Event{EventID: "event", Key: key}))
	}
}

func TestMeasure_CountsAsAWSDoes(t *testing.T) {
	ev := relay.Event{
		EventID: "0b9bd2a4", Type: "order.placed", ContentType: "text/plain", Payload: "ü€", // 5 bytes
		Attributes: map[string]string{"tenant": "ä", "event_type": "ignored", "traceparent": "00-1"},
	}
	bytes, attributes := Measure(&ev)
	assert.Equal(t, 5, attributes)
	want := len("ü€") + 5*len("String") +
		len("event_id"+"0b9bd2a4"+"event_type"+"order.placed"+"content_type"+"text/plain"+"tenant"+"ä"+"traceparent"+"00-1")
	assert.Equal(t, want, bytes)

	assert.Nil(t, exceeded(want, attributes, want))
	assert.Equal(t, relay.CodeTooLarge, exceeded(want, attributes, want-1).Code)
	assert.Nil(t, exceeded(want, 10, want))
	assert.Equal(t, relay.CodeTooManyAttributes, exceeded(want, 11, want).Code)
}

func TestDeduplicationID_StaysForARetryAndChangesForAReplay(t *testing.T) {
	ev := relay.Event{EventID: "0b9bd2a4"}
	assert.Equal(t, "0b9bd2a4", deduplicationID(&ev))
	ev.Replay = 12
	assert.Equal(t, "0b9bd2a4/12", deduplicationID(&ev))
}
