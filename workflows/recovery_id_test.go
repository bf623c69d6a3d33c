package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// refusedRun runs a Relay whose only batch, of the given topic, goes to a recovery. It returns the ids of
// the recoveries that the run looked for and started, the topics whose batch it released, and whether
// the run asked for a version.
func refusedRun(t *testing.T, topic string, version workflow.Version, answer func() (bool, error)) (asked, started, released []string, versioned bool) {
	t.Helper()
	e := newEnv(t)
	e.OnGetVersion("topic-in-id", workflow.DefaultVersion, workflow.Version(1)).Return(
		func(string, workflow.Version, workflow.Version) workflow.Version {
			versioned = true
			return version
		})
	e.claimOnce(batch(topic, 1))
	e.onPublish(time.Millisecond, func(activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{}, temporal.NewNonRetryableApplicationError("no", "NotFound", nil)
	})
	e.OnActivity(act.RecoveryRuns, mock.Anything, mock.Anything).Return(
		func(_ context.Context, r activities.TopicRequest) (bool, error) {
			require.Equal(t, topic, r.Topic)
			asked = append(asked, r.RecoveryID)
			return answer()
		})
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(func(_ context.Context, b relay.Batch) error {
		released = append(released, b.Topic)
		return nil
	})
	e.OnWorkflow(workflows.Recovery, mock.Anything, mock.Anything).Return(workflows.RecoveryResult{}, nil)
	e.SetOnChildWorkflowStartedListener(func(i *workflow.Info, _ workflow.Context, _ converter.EncodedValues) {
		started = append(started, i.WorkflowExecution.ID)
	})
	require.Equal(t, 1, e.run(workflows.RelayInput{RunFor: 10 * time.Second}).Recovering)
	return asked, started, released, versioned
}

func none() (bool, error) { return false, nil }

// Without a marker, histories of plain topics replay in every version.
func TestRelay_StartsTheRecoveryOfAPlainTopicWithoutALookup(t *testing.T) {
	asked, started, released, versioned := refusedRun(t, "orders", 1, none)
	require.Equal(t, []string{"outbox-recovery/default-test-taskqueue/orders"}, started)
	require.Empty(t, asked)
	require.Empty(t, released)
	require.False(t, versioned)
}

func TestRelay_LooksForARecoveryUnderItsEarlierIDFirst(t *testing.T) {
	const earlier, id = "outbox-recovery/default-test-taskqueue/a/b", "outbox-recovery/default-test-taskqueue/a%2Fb"
	asked, started, released, versioned := refusedRun(t, "a/b", 1, none)
	require.True(t, versioned)
	require.Equal(t, []string{earlier}, asked)
	require.Equal(t, []string{id}, started)
	require.Empty(t, released)

	asked, started, released, _ = refusedRun(t, "a/b", 1, func() (bool, error) { return true, nil })
	require.Equal(t, []string{earlier}, asked)
	require.Empty(t, started, "no second one")
	require.Equal(t, []string{"a/b"}, released)

	asked, started, released, _ = refusedRun(t, "a/b", 1, func() (bool, error) { return false, errors.New("away") })
	require.Len(t, asked, 4)
	require.Empty(t, started, "Temporal does not answer, and the relay tries the topic again")
	require.Equal(t, []string{"a/b"}, released)
}

func TestRelay_OfAnEarlierVersionKeepsTheEarlierRecoveryID(t *testing.T) {
	asked, started, _, _ := refusedRun(t, "a/b", workflow.DefaultVersion, none)
	require.Empty(t, asked)
	require.Equal(t, []string{"outbox-recovery/default-test-taskqueue/a/b"}, started)
}

// Under the earlier id, a recovery of such a topic could not run.
func TestRelay_LooksForNoRecoveryIDThatTemporalRefuses(t *testing.T) {
	asked, started, _, _ := refusedRun(t, "größe", 1, none)
	require.Empty(t, asked)
	require.Equal(t, []string{"outbox-recovery/default-test-taskqueue/gr%C3%B6%C3%9Fe"}, started)
}
