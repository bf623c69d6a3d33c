package publish_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
)

func TestMode_OfAFIFOQueueIsThatOfItsAttributes(t *testing.T) {
	for attributes, want := range map[string]publish.Mode{
		`{"DeduplicationScope":"messageGroup","FifoThroughputLimit":"perMessageGroupId"}`: publish.HighThroughput,
		`{"DeduplicationScope":"messageGroup","FifoThroughputLimit":"perQueue"}`:          publish.PerQueue,
		`{"DeduplicationScope":"queue","FifoThroughputLimit":"perQueue"}`:                 publish.PerQueue,
		`{}`: "",
	} {
		w := newWire(t)
		w.other = func(string, *http.Request, url.Values) wireReply {
			return wireReply{Raw: `{"Attributes":` + attributes + `}`}
		}
		mode, err := w.publisher(publish.Destination{SQS: "https://queue.example/1/orders.fifo"}).Mode(t.Context(), "orders")
		require.NoError(t, err)
		require.Equal(t, want, mode, attributes)
	}
}

func TestMode_OfOtherDestinationsIsNone(t *testing.T) {
	for _, d := range []publish.Destination{{SQS: "https://queue.example/1/orders"}, {SNS: "arn:aws:sns:eu-central-1:1:orders.fifo"}} {
		mode, err := newWire(t).publisher(d).Mode(t.Context(), "orders")
		require.NoError(t, err)
		require.Empty(t, mode)
	}
}

func TestMode_IsUntoldWhereAttributesMayNotBeRead(t *testing.T) {
	w := newWire(t)
	w.other = func(string, *http.Request, url.Values) wireReply { return denied }
	_, err := w.publisher(publish.Destination{SQS: "https://queue.example/1/orders.fifo"}).Mode(t.Context(), "orders")
	require.ErrorIs(t, err, publish.ErrUntold)
}
