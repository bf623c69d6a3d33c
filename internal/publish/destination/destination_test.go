package destination

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestAnswer_CountsAnEventWithoutAnOutcomeAsUnanswered(t *testing.T) {
	no := &relay.PublishError{Code: "No"}
	a := Answer{Outcomes: []Outcome{{Accepted: true, MessageID: "m"}, {Err: no}, {Accepted: true, Err: no}, {}}}
	id, err := a.Of(0)
	require.Nil(t, err)
	require.Equal(t, "m", id)
	for i := 1; i <= 2; i++ {
		_, err = a.Of(i)
		require.Same(t, no, err)
	}
	for i := 3; i <= 4; i++ { // the last one is behind the end
		_, err = a.Of(i)
		require.Equal(t, relay.CodeUnanswered, err.Code)
		require.Equal(t, relay.ClassRetry, err.Class)
		require.False(t, err.Whole)
	}
}

func TestAnswer_OfAFailedRequestIsItsFailureForEachEvent(t *testing.T) {
	a := Failed(&relay.PublishError{Code: "No"})
	for i := range 2 {
		_, err := a.Of(i)
		require.Same(t, a.Failure, err)
		require.True(t, err.Whole)
	}
}
