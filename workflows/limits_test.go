package workflows

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTopicLimits_HalveWhenThrottledAndRiseStepByStep(t *testing.T) {
	l := newLimits(RelayInput{Slots: 16, Concurrency: 8})
	require.Equal(t, 8, l.concurrency("orders"))
	for _, want := range []int{4, 2, 1} {
		l.succeeded("orders", true)
		require.Equal(t, want, l.concurrency("orders"))
		require.Empty(t, l.lowered())
	}
	l.succeeded("orders", true) // fewer requests are not possible: fewer batches
	l.succeeded("orders", true)
	require.Equal(t, map[string]int{"orders": 1}, l.lowered())
	require.Equal(t, 8, l.concurrency("audit"), "of this topic only")
	var shares, requests []int
	for range 11 {
		l.succeeded("orders", false)
		if s, ok := l.lowered()["orders"]; ok {
			shares = append(shares, s)
		}
		requests = append(requests, l.concurrency("orders"))
	}
	require.Equal(t, []int{2, 3}, shares)
	require.Equal(t, []int{1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8}, requests)
	require.Empty(t, l.topic)
}

func TestTopicLimits_AllowOneBatchAfterAFailureUntilABatchSucceeds(t *testing.T) {
	l := newLimits(RelayInput{Slots: 16, Concurrency: 4})
	l.failed("orders")
	require.Equal(t, map[string]int{"orders": 1}, l.lowered())
	require.Equal(t, 4, l.concurrency("orders"))
	for range 4 {
		l.succeeded("orders", false)
	}
	require.Empty(t, l.lowered())
}
