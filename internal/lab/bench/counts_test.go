package bench

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCounts_AreOfTheRequestsThatWereSent(t *testing.T) {
	const others = `# TYPE temporal_request_total counter
temporal_request_total{namespace="n",operation="PollActivityTaskQueue"} 7
`
	c, err := countsOf(others)
	require.NoError(t, err)
	require.Zero(t, c)
	c, err = countsOf(others + `temporal_request_total{namespace="n",operation="RecordActivityTaskHeartbeat"} 12
temporal_request_total{namespace="n",operation="RecordActivityTaskHeartbeat",worker_type="x"} 1
temporal_request_failure_total{namespace="n",operation="RecordActivityTaskHeartbeat"} 5
outbox_requests_total{outcome="answered",topic="orders"} 30
outbox_requests_total{outcome="refused",topic="orders"} 1
outbox_requests_limit{topic="orders"} 16
`)
	require.NoError(t, err)
	require.Equal(t, counts{heartbeats: 13, requests: 31}, c)
	_, err = countsOf("temporal_request{} 3\n")
	require.ErrorContains(t, err, "do not count")
}
