package sqs

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish/destination"
)

func TestQueue_SpanHasNoSecretsOfItsURL(t *testing.T) {
	q := &queue{route: destination.Route{Address: "https://user:secret@proxy.example/1/orders?token=a/b.fifo"}}
	s := q.Span()
	require.Equal(t, "orders", s.Name)
	require.NotContains(t, fmt.Sprint(s), "secret")
	require.NotContains(t, fmt.Sprint(s), "token")
}
