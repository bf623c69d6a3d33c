package publish_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/publish/limit"
	"github.com/temporal-outbox/relay/internal/relay"
)

// answersTo publishes n events and returns how their requests ended.
func answersTo(t *testing.T, p *publish.Publisher, n int) (answers []relay.Answer) {
	t.Helper()
	_, err := p.Publish(t.Context(), publish.Request{
		Topic: "orders", Events: stream(simple(n)), Report: func([]relay.Outcome) {}, Concurrency: 1,
		Answered: func(a relay.Answer) { answers = append(answers, a) },
	})
	require.NoError(t, err)
	return answers
}

func TestAnswered_IsToldOfEveryRequestWithItsEvents(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		assert.Equal(t, []relay.Answer{{Events: 10, Limit: limit.Initial}, {Events: 10, Limit: limit.Initial}, {Events: 3, Limit: limit.Initial}}, answersTo(t, w.publisher(d), 23))
	})
}

// once answers the first attempt in a way of its own and accepts the next.
func once(first wireReply) func(wireBatch) wireReply {
	return func(b wireBatch) wireReply {
		if b.Call == 1 {
			return first
		}
		return wireReply{}
	}
}

func TestAnswered_SuspectsEventsWhoseAnswerWasLostAndNoOthers(t *testing.T) {
	throttled := wireReply{Status: 400, Error: &wireError{Code: "ThrottlingException", Message: "slow down"}}
	lost := func(b wireBatch) wireReply {
		if b.Call == 1 {
			return wireReply{Drop: true}
		}
		return wireReply{Status: 403, Error: &wireError{Code: "AccessDenied", Message: "no"}}
	}
	for name, c := range map[string]struct {
		publish   func(wireBatch) wireReply
		suspected int
		code      string
	}{
		"all accepted":                      {func(wireBatch) wireReply { return wireReply{} }, 0, ""},
		"throttled, then accepted":          {once(throttled), 0, ""},
		"throttled":                         {func(wireBatch) wireReply { return throttled }, 0, "ThrottlingException"},
		"one entry fails":                   {once(wireReply{Fail: map[string]wireError{"1": {Code: "InternalError"}}}), 0, ""},
		"two entries are left out":          {once(wireReply{Omit: map[string]bool{"1": true, "2": true}}), 2, ""},
		"dropped, then accepted":            {once(wireReply{Drop: true}), 3, ""},
		"dropped, then rejected":            {lost, 3, "AccessDenied"},
		"a gateway's 504, then accepted":    {once(wireReply{Status: 504, Raw: "<html>"}), 3, ""},
		"a firewall's 403":                  {func(wireBatch) wireReply { return wireReply{Status: 403, Raw: "<html>"} }, 0, "HTTP403"},
		"an answer that is not readable":    {func(wireBatch) wireReply { return wireReply{Raw: "<Publ{"} }, 3, relay.CodeResponse},
		"an internal fault, says AWS":       {once(wireReply{Status: 500, Error: &wireError{Code: "InternalFailure"}}), 0, ""},
		"dropped, and dropped once more":    {func(wireBatch) wireReply { return wireReply{Drop: true} }, 3, relay.CodeConnection},
		"nothing but silence until it ends": {func(wireBatch) wireReply { time.Sleep(3 * time.Second); return wireReply{} }, 3, relay.CodeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
				w.publish = c.publish
				p := w.publisher(d, func(cfg *publish.Config) {
					if c.code == relay.CodeTimeout {
						cfg.RequestTimeout = 2 * time.Second // the look-up has to succeed on a busy machine, too
					}
				})
				_, err := p.Resolve(t.Context(), "orders")
				require.NoError(t, err)
				answers := answersTo(t, p, 3)
				require.Len(t, answers, 1)
				require.Equal(t, 3, answers[0].Events)
				require.Equal(t, c.suspected, answers[0].Suspected)
				if c.code == "" {
					require.Nil(t, answers[0].Err)
				} else {
					require.Equal(t, c.code, answers[0].Err.Code)
				}
			})
		})
	}
}

func TestAnswered_ASuspicionEndsWithItsRequest(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		w.publish = once(wireReply{Drop: true})
		assert.Equal(t, []relay.Answer{{Events: 10, Suspected: 10, Limit: limit.Initial}, {Events: 5, Limit: limit.Initial}}, answersTo(t, w.publisher(d), 15))
	})
}

func TestAnswered_SuspectsNoRequestThatFoundNoConnection(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		p := w.publisher(d, func(cfg *publish.Config) {
			cfg.AWS.HTTPClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		})
		_, err := p.Resolve(t.Context(), "orders")
		require.NoError(t, err)
		w.Close()
		answers := answersTo(t, p, 3)
		require.Len(t, answers, 1)
		require.Equal(t, relay.CodeConnection, answers[0].Err.Code)
		require.Zero(t, answers[0].Suspected)
	})
}
