package sns

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

func TestSender_WritesEntriesOfTheSizeThatIsMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		ev := relay.Event{
			EventID: text.Draw(t, "id"), Type: text.Draw(t, "type"), ContentType: text.Draw(t, "content type"),
			Payload: text.Draw(t, "payload"), Attributes: rapid.MapOf(text, text).Draw(t, "attributes"),
		}
		want, _ := message.Measure(&ev)
		var s sender
		for range 2 { // the second time with what the first left behind
			s.write(3, &ev)
			got := len(*s.entries[3].Message)
			for name, a := range s.entries[3].MessageAttributes {
				got += len(name) + len(*a.DataType) + len(*a.StringValue)
			}
			if got != want {
				t.Fatalf("measured %d bytes, SNS gets %d", want, got)
			}
			s.write(3, &relay.Event{Attributes: map[string]string{"left": "behind"}})
		}
	})
}
