package activities

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/timing"
)

func TestNew_KeepsTheDurationsThatTheStoreAndTemporalKeep(t *testing.T) {
	a, err := New(Config{Store: &store{}, Publisher: &publisher{}})
	require.NoError(t, err)
	require.Equal(t, timing.Lease, a.cfg.Lease)
	require.Equal(t, timing.BatchFor, a.cfg.BatchFor)
	require.Equal(t, timing.RecoveryHold, a.cfg.RecoveryHold)
	require.Equal(t, timing.HandoverHold, a.cfg.HandoverHold)
}
