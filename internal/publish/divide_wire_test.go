package publish_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// rejectBad rejects every batch that has an entry with "bad" in its body.
func rejectBad(code string, requests *atomic.Int64, arrived *sync.Map) func(wireBatch) wireReply {
	return func(b wireBatch) wireReply {
		requests.Add(1)
		for _, e := range b.Entries {
			if strings.Contains(e.Body, "bad") {
				return wireReply{Status: 400, Error: &wireError{Code: code, Message: "not allowed"}}
			}
		}
		for _, e := range b.Entries {
			if _, twice := arrived.LoadOrStore(e.Attributes["event_id"], true); twice {
				return wireReply{Status: 500, Raw: "twice"}
			}
		}
		return wireReply{}
	}
}

func TestDivide_FindsTheBadEventOfARejectedRequestAndTheOthersArrive(t *testing.T) {
	for _, fifo := range []bool{false, true} {
		both(t, fifo, func(t *testing.T, w *wire, d publish.Destination) {
			for _, code := range []string{"InvalidParameter", "InvalidMessageContents", "ParameterValueInvalid", "SerializationException"} {
				var requests atomic.Int64
				var arrived sync.Map
				w.publish = rejectBad(code, &requests, &arrived)
				events := simple(10)
				events[6].Payload = "bad"
				l := publishAll(t, w.publisher(d), events...)
				want := map[int64]string{1: "", 2: "", 3: "", 4: "", 5: "", 6: "", 7: code, 8: "", 9: "", 10: ""}
				assert.Equal(t, want, l.codes())
				assert.False(t, l.byID[7].Whole)
				assert.Equal(t, "not allowed", l.byID[7].Message)
				assert.LessOrEqual(t, requests.Load(), int64(9))
				_, came := arrived.Load(events[9].EventID)
				assert.True(t, came)
			}
		})
	}
}

func TestDivide_ForAnyCodeOnlyIfEventsAreToBeIsolated(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		for _, isolate := range []bool{false, true} {
			var requests atomic.Int64
			var arrived sync.Map
			w.publish = rejectBad("AccessDenied", &requests, &arrived)
			events := simple(10)
			events[2].Payload = "bad"
			l := &ledger{t: t}
			result, err := w.publisher(d).Publish(t.Context(), publish.Request{
				Topic: "orders", Events: stream(events), Report: l.report, Isolate: isolate,
			})
			require.NoError(t, err)
			assert.Equal(t, !isolate, l.byID[3].Whole)
			assert.Equal(t, relay.ClassDestination, l.byID[3].Class)
			assert.Equal(t, map[bool]int{false: 10, true: 1}[isolate], result.Failed)
		}
	})
}

func TestDivide_ATooLongRequestIsSentInPartsAndLaterOnesAreSmaller(t *testing.T) {
	for _, code := range []string{"BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong"} {
		both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
			var limit atomic.Int64
			limit.Store(256 << 10)
			w.other = lists(new(sync.Map), &limit) // what the destination says, and does not keep
			var tooLong atomic.Int64
			w.publish = func(b wireBatch) wireReply {
				if weigh(b) > 40_000 {
					tooLong.Add(1)
					return wireReply{Status: 400, Error: &wireError{Code: code, Message: "too long"}}
				}
				return wireReply{}
			}
			events := simple(100)
			for i := range events {
				events[i].Payload = strings.Repeat("x", 9_000)
			}
			events[50].Payload = strings.Repeat("x", 50_000)
			p := w.publisher(d)
			publishOnce := func() (failed map[int64]*relay.PublishError) {
				failed = map[int64]*relay.PublishError{}
				_, err := p.Publish(t.Context(), publish.Request{
					Topic: "orders", Concurrency: 1, Events: stream(events),
					Report: func(outcomes []relay.Outcome) {
						for _, o := range outcomes {
							if o.Err != nil {
								failed[o.ID] = o.Err
							}
						}
					},
				})
				require.NoError(t, err)
				return failed
			}
			failed := publishOnce()
			require.Len(t, failed, 1)
			large := failed[51]
			require.NotNil(t, large)
			assert.Equal(t, relay.CodeTooLarge, large.Code)
			assert.Equal(t, relay.ClassPoison, large.Class)
			assert.False(t, large.Whole)
			assert.Contains(t, large.Message, "262144")
			assert.Contains(t, large.Message, "BatchRequestTooLong: too long")
			// The first, one of its parts at most, and the large event alone.
			assert.LessOrEqual(t, tooLong.Load(), int64(4))

			tooLong.Store(0)
			events = events[:50]
			assert.Empty(t, publishOnce())
			assert.Zero(t, tooLong.Load(), "it is known to the next stream")

			publish.Expire(p, "orders")
			assert.Empty(t, publishOnce())
			assert.Positive(t, tooLong.Load(), "a fresh look-up ends it")
		})
	}
}

func TestDivide_AProxysLimitCountsToo(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		w.other = func(string, *http.Request, url.Values) wireReply { return wireReply{} }
		w.publish = func(b wireBatch) wireReply {
			if weigh(b) > 5_000 {
				return wireReply{Status: http.StatusRequestEntityTooLarge, Raw: "<html>413</html>"}
			}
			return wireReply{}
		}
		events := simple(12)
		for i := range events {
			events[i].Payload = strings.Repeat("x", 2_000)
		}
		events[5].Payload = strings.Repeat("x", 6_000)
		l := publishAll(t, w.publisher(d), events...)
		for id, code := range l.codes() {
			assert.Equal(t, map[bool]string{true: relay.CodeTooLarge}[id == 6], code, "event %d", id)
		}
		assert.Contains(t, l.byID[6].Message, "HTTP413")
	})
}
