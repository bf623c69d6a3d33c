package program

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStarter_HasTheDocumentedNameUntilItsOwnIsKnown(t *testing.T) {
	require.Equal(t, "starter", Starter())
	require.Equal(t, "starter dead list orders", Starter("dead list", "orders"))
	defer StarterIs(starter)
	StarterIs("outbox")
	require.Equal(t, "outbox", Starter())
	require.Equal(t, "outbox migrate", Starter("migrate"))
}
