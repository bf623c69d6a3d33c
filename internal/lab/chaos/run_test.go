package chaos

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// startStack starts a stack of the test's own, whatever the environment names:
// what a run restarts must be nobody else's. It skips where the other tests that
// need a stack do, so that a plain `go test ./...` builds no servers.
func startStack(t *testing.T) *stack.Stack {
	t.Helper()
	testenv.Temporal(t)
	s, err := stack.Start(t.Context(), StackOptions(os.Getenv, testLog{t}))
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

// Two minutes in which every kind of fault has its turn. CHAOS_SEED chooses
// another plan.
func TestRun_RelayKeepsItsPromisesWhileEverythingAroundItFails(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	seed := uint64(1)
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "CHAOS_SEED")
	}
	report, err := Run(t.Context(), Config{
		Stack: startStack(t), Seed: seed, Length: 2 * time.Minute, Pinned: true, Progress: testLog{t},
	})
	require.NoError(t, err)
	report.Print(testLog{t})
	require.Positive(t, report.Retention.Events, "retention had nothing to drop")
	require.Positive(t, report.LostCommits, "no primary was lost")
	require.True(t, report.OK, "again with: go run ./localstack chaos --seed %d", seed)
}

// testLog writes lines into a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Helper()
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
