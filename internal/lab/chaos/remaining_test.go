package chaos

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What was asked of a recovery ends in words of its own, or, where that was terminated,
// not at all.
func TestRemaining_HasOperationsUnderWayOrFailedAndNoRequestToARecovery(t *testing.T) {
	db := audited(t)
	_, err := db.Exec(t.Context(), `INSERT INTO outbox.operation (kind, topic, by, reason, finished_at, outcome) VALUES
	    ('recover-park', 'orders', 'a', 'x', now(), 'parked: 1 published, 2 dead letters'), ('recover-park', 'orders', 'a', 'x', NULL, ''),
	    ('recover-now', 'orders', 'a', 'x', now(), 'tries now'), ('redrive', 'audit', 'a', 'x', now(), 'done')`)
	require.NoError(t, err)
	fx := &fixture{db: db}
	left, err := fx.remaining(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = db.Exec(t.Context(), `INSERT INTO outbox.operation (kind, topic, by, reason, finished_at, outcome) VALUES
	    ('redrive', 'orders', 'a', 'x', NULL, ''), ('discard', 'orders', 'a', 'x', now(), 'cancelled')`)
	require.NoError(t, err)
	left, err = fx.remaining(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 2)
	require.Equal(t, []string{"under way", "incomplete"}, []string{left[0].What, left[1].What})

	// A failover set both back after they had ended.
	_, err = db.Exec(t.Context(), `INSERT INTO chaos.set_back SELECT id FROM outbox.operation WHERE topic = 'orders' AND outcome IN ('', 'cancelled')`)
	require.NoError(t, err)
	left, err = fx.remaining(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}
