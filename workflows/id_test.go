package workflows

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestIDs_OfPlainTopicsAreThoseOfEarlierVersions(t *testing.T) {
	for _, queue := range []string{DefaultTaskQueue, "other", "shop.eu-central-1_2~x"} {
		for _, topic := range []string{"orders", "order-events.v2", "A_b~9"} {
			require.Equal(t, EarlierRecoveryID(queue, topic), RecoveryID(queue, topic))
			require.Equal(t, EarlierOperationIDPrefix(queue, relay.Redrive, topic), OperationIDPrefix(queue, relay.Redrive, topic))
		}
	}
	require.Equal(t, "outbox-recovery/orders", EarlierRecoveryID(DefaultTaskQueue, "orders"))
	require.Equal(t, "outbox-recovery/q/a/b", EarlierRecoveryID("q", "a/b"))
	require.Equal(t, "outbox-replay/q/a/b/", EarlierOperationIDPrefix("q", relay.Replay, "a/b"))
}

func TestIDs_OfAnyTopicAreWhatTemporalTakes(t *testing.T) {
	require.Equal(t, "outbox-recovery/gr%C3%B6%C3%9Fe", RecoveryID(DefaultTaskQueue, "größe"))
	require.Equal(t, "outbox-recovery/a%2Fb", RecoveryID(DefaultTaskQueue, "a/b"))
	require.Equal(t, "outbox-recovery/q%2Fa/100%25", RecoveryID("q/a", "100%"))
	require.Equal(t, "outbox-redrive/%1B%5B31m/", OperationIDPrefix(DefaultTaskQueue, relay.Redrive, "\x1b[31m"))
	queue := strings.Repeat("q", maxTaskQueue)
	require.NoError(t, CheckTaskQueue(queue))
	for _, topic := range []string{strings.Repeat("語", 85) + "x", strings.Repeat("\x01", 256), "a b\tc\u202e\x7f"} {
		for _, id := range []string{RecoveryID(queue, topic), OperationIDPrefix(queue, relay.Discard, topic) + "9223372036854775807"} {
			require.True(t, IsID(id), "%q", id)
			require.LessOrEqual(t, len(id), 1000)
		}
	}
}

func TestIDs_OfTwoTopicsOrTaskQueuesAreNeverTheSame(t *testing.T) {
	names := []string{"a", "b", "a/b", "b/a", "a/b/a", "/", "a/", "/a", "%2F", "a%2Fb", "a%b", "q", "q/a", "q/a/b", DefaultTaskQueue, DefaultTaskQueue + "/a", "recovery", "größe", "gr%C3%B6%C3%9Fe", "", " "}
	owner, earlier := map[string][2]string{}, map[string]bool{}
	collided := false
	for _, queue := range names {
		for _, topic := range names {
			if queue == "" || topic == "" {
				continue
			}
			id := RecoveryID(queue, topic)
			require.NotContains(t, owner, id, "%q of %q", topic, queue)
			owner[id] = [2]string{queue, topic}
			collided = collided || earlier[EarlierRecoveryID(queue, topic)]
			earlier[EarlierRecoveryID(queue, topic)] = true
		}
	}
	require.True(t, collided, "this test sees what it is for")
}

func TestTaskQueue_RefusesNamesThatTemporalWouldNotTake(t *testing.T) {
	for _, fine := range []string{DefaultTaskQueue, "q/a", "shop orders"} {
		require.NoError(t, CheckTaskQueue(fine))
	}
	require.EqualError(t, CheckTaskQueue("größe"), `is "größe": Temporal accepts only printable ASCII characters`)
	require.ErrorContains(t, CheckTaskQueue("a\x1b[31m"), `is "a\x1b[31m"`)
	require.ErrorContains(t, CheckTaskQueue(""), `is ""`)
	require.ErrorContains(t, CheckTaskQueue(strings.Repeat("/", 64)), "has 192 bytes")
}
