package publish

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/timing"
)

func TestPublisher_KeepsTheTimeoutThatLeasesAndPausesCountWith(t *testing.T) {
	c := Config{}.withDefaults()
	require.Equal(t, timing.RequestTimeout, c.RequestTimeout)
	require.LessOrEqual(t, 2*c.AttemptTimeout+awsapi.MaxBackoff, timing.RequestTimeout, "all attempts of a request")
}
