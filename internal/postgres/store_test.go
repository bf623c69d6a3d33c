package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/timing"
)

func TestStore_KeepsTheDurationsThatActivitiesKeep(t *testing.T) {
	c := Config{}.withDefaults()
	require.Equal(t, timing.Lease, c.Lease)
	require.Equal(t, timing.ClaimLease, c.ClaimLease)
	require.Equal(t, timing.StatementTimeout, c.Timeout)
}
