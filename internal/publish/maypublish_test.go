package publish_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

func TestMayPublish_AsksWithoutPublishing(t *testing.T) {
	for name, c := range map[string]struct {
		reply  wireReply
		code   string // of a certain rejection
		untold string // why it is not known
	}{
		"denied":          {wireReply{Status: 403, Error: &wireError{Code: "AccessDenied", Message: "no"}}, "AccessDenied", ""},
		"denied by SNS":   {wireReply{Status: 403, Error: &wireError{Code: "AuthorizationError", Message: "no"}}, "AuthorizationError", ""},
		"gone":            {wireReply{Status: 404, Error: &wireError{Code: "NotFound", Message: "gone"}}, "NotFound", ""},
		"its key":         {wireReply{Status: 400, Error: &wireError{Code: "KMS.DisabledException", Message: "off"}}, "KMS.DisabledException", ""},
		"empty":           {wireReply{Status: 400, Error: &wireError{Code: "AWS.SimpleQueueService.EmptyBatchRequest", Message: "empty"}}, "", "AWS does not say"},
		"not well-formed": {wireReply{Status: 400, Error: &wireError{Code: "InvalidParameter", Message: "empty"}}, "", "AWS does not say"},
		"throttled":       {wireReply{Status: 400, Error: &wireError{Code: "ThrottlingException", Message: "later"}}, "", "did not answer"},
		"no answer":       {wireReply{Drop: true}, "", "did not answer"},
		"accepted":        {wireReply{}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
				w.publish = func(b wireBatch) wireReply {
					require.Empty(t, b.Entries, "it carries nothing that could be published")
					return c.reply
				}
				err := w.publisher(d).MayPublish(t.Context(), "orders")
				var pe *relay.PublishError
				switch {
				case c.untold != "":
					require.ErrorIs(t, err, publish.ErrUntold)
					require.ErrorContains(t, err, c.untold)
				case c.code != "":
					require.NotErrorIs(t, err, publish.ErrUntold)
					require.ErrorAs(t, err, &pe)
					require.Equal(t, c.code, pe.Code)
				default:
					require.NoError(t, err)
				}
				require.Positive(t, w.calls.Load())
			})
		})
	}
}

func TestMayPublish_AsksNoDestinationThatIsNotThere(t *testing.T) {
	w := newWire(t)
	w.other = func(string, *http.Request, url.Values) wireReply {
		return wireReply{Status: 400, Error: &wireError{Code: "AWS.SimpleQueueService.NonExistentQueue", Message: "none"}}
	}
	err := w.publisher(publish.Destination{SQS: "orders"}).MayPublish(t.Context(), "orders")
	require.ErrorContains(t, err, "create it in eu-central-1")
	require.Zero(t, w.calls.Load())
}
