package bench

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHeartbeats_AreThoseThatWereSent(t *testing.T) {
	const others = `# TYPE temporal_request_total counter
temporal_request_total{namespace="n",operation="PollActivityTaskQueue"} 7
`
	n, err := countHeartbeats(others)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = countHeartbeats(others + `temporal_request_total{namespace="n",operation="RecordActivityTaskHeartbeat"} 12
temporal_request_total{namespace="n",operation="RecordActivityTaskHeartbeat",worker_type="x"} 1
temporal_request_failure_total{namespace="n",operation="RecordActivityTaskHeartbeat"} 5
`)
	require.NoError(t, err)
	require.Equal(t, 13, n)
	_, err = countHeartbeats("temporal_request{} 3\n")
	require.ErrorContains(t, err, "do not count")
}
