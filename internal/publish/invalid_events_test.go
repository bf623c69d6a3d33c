package publish

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestInvalidEvents_FailInTheirPlace(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprint("ordered=", ordered), func(t *testing.T) {
			s := &stub{}
			events := numbered(1, 6, func(id int64) string { return fmt.Sprint(id % 2) })
			events[2].Payload = string(make([]byte, 2000)) // key 1
			events[3].Attributes = map[string]string{}     // key 0
			for i := range 8 {
				events[3].Attributes[fmt.Sprint("a", i)] = "v"
			}
			codes := make(map[int64]string)
			result, err := s.publisher(ordered).Publish(t.Context(), Request{
				Topic: "orders", Events: feed(events),
				Report: func(outcomes []relay.Outcome) {
					for _, o := range outcomes {
						codes[o.ID] = ""
						if o.Err != nil {
							codes[o.ID] = o.Err.Code + ": " + o.Err.Message
						}
					}
				},
			})
			require.NoError(t, err)
			want := map[int64]string{
				1: "", 2: "",
				3: "EventTooLarge: the event has 2057 bytes with its attributes, the destination accepts 1000",
				4: "TooManyAttributes: the event has 11 attributes with the built-in ones, AWS accepts 10",
				5: "", 6: "",
			}
			if ordered {
				delete(want, 5)
				delete(want, 6)
			}
			assert.Equal(t, want, codes)
			assert.Equal(t, 6-len(want), result.Held)
			assert.NotContains(t, s.sent, int64(3))
			assert.NotContains(t, s.sent, int64(4))
		})
	}
}

func TestInvalidEvents_AreReportedWhileOthersAreRead(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var pages [][]relay.Event
	for i := range 1000 {
		pages = append(pages, numbered(1+10*i, 10, nil))
	}
	result, err := new(stub).publisher(false).Publish(ctx, Request{
		Topic: "unknown", Events: feed(pages...),
		Report: func(outcomes []relay.Outcome) {
			assert.Equal(t, relay.CodeNoRoute, outcomes[0].Err.Code)
			assert.Contains(t, outcomes[0].Err.Message, `"unknown"`)
			cancel()
		},
	})
	require.ErrorIs(t, err, relay.ErrStopped)
	assert.Positive(t, result.Failed)
	assert.Zero(t, result.Requests)
	assert.Less(t, result.Events, 1000, "the first report came too late")
}
