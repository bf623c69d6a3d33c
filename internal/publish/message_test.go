package publish

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestGroupIDsAreLegalAndOneForEachKey(t *testing.T) {
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

func TestTheSizeIsWhatAWSCounts(t *testing.T) {
	ev := relay.Event{
		EventID: "0b9bd2a4", Type: "order.placed", ContentType: "text/plain", Payload: "ü€", // 5 bytes
		Attributes: map[string]string{"tenant": "ä", "event_type": "ignored", "traceparent": "00-1"},
	}
	bytes, attributes := measure(&ev)
	assert.Equal(t, 5, attributes)
	want := len("ü€") + 5*len("String") +
		len("event_id"+"0b9bd2a4"+"event_type"+"order.placed"+"content_type"+"text/plain"+"tenant"+"ä"+"traceparent"+"00-1")
	assert.Equal(t, want, bytes)

	assert.Nil(t, refuse(want, attributes, want))
	assert.Equal(t, relay.CodeTooLarge, refuse(want, attributes, want-1).Code)
	assert.Nil(t, refuse(want, 10, want))
	assert.Equal(t, relay.CodeTooManyAttributes, refuse(want, 11, want).Code)
}

func TestTheSizeIsThatOfTheEntriesThatAreSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		ev := relay.Event{
			EventID: text.Draw(t, "id"), Type: text.Draw(t, "type"), ContentType: text.Draw(t, "content type"),
			Payload: text.Draw(t, "payload"), Attributes: rapid.MapOf(text, text).Draw(t, "attributes"),
		}
		want, _ := measure(&ev)
		topic, queue := snsRequest{sender: &snsSender{}}, sqsRequest{sender: &sqsSender{}}
		for range 2 { // the second time with what the first left behind
			topic.fill(3, &entry{ev: &ev})
			queue.fill(3, &entry{ev: &ev})
			gotSNS, gotSQS := len(*topic.entries[3].Message), len(*queue.entries[3].MessageBody)
			for name, a := range topic.entries[3].MessageAttributes {
				gotSNS += len(name) + len(*a.DataType) + len(*a.StringValue)
			}
			for name, a := range queue.entries[3].MessageAttributes {
				gotSQS += len(name) + len(*a.DataType) + len(*a.StringValue)
			}
			if gotSNS != want || gotSQS != want {
				t.Fatalf("measured %d bytes, SNS gets %d and SQS %d", want, gotSNS, gotSQS)
			}
			topic.fill(3, &entry{ev: &relay.Event{Attributes: map[string]string{"left": "behind"}}})
			queue.fill(3, &entry{ev: &relay.Event{Attributes: map[string]string{"left": "behind"}}})
		}
	})
}

func TestARetryKeepsItsDeduplicationIDAndAReplayGetsAnother(t *testing.T) {
	ev := relay.Event{EventID: "0b9bd2a4"}
	assert.Equal(t, "0b9bd2a4", deduplicationID(&ev))
	ev.Replay = 12
	assert.Equal(t, "0b9bd2a4/12", deduplicationID(&ev))
}
