package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestHealth_NamesATransactionThatHasInsertedAndIsIdle(t *testing.T) {
	o := open(t)
	conn, err := o.db.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `SET application_name = 'billing'; BEGIN; INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'p')`)
	require.NoError(t, err)
	defer conn.Exec(context.Background(), `ROLLBACK`)
	pid := conn.Conn().PgConn().PID()
	for range 3 {
		o.write("orders", 1) // which uses transaction ids
	}
	o.publishAll()
	o.roundsAtOnce()
	_, waits, err := o.AdvanceRounds(t.Context(), true)
	require.NoError(t, err)
	require.True(t, waits)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	waitFor(t, "the other tests' older transactions to end", func() bool {
		h, err := limited.Health(t.Context())
		require.NoError(t, err)
		return h.HeldXIDs > 0 && h.HeldBy == fmt.Sprintf("the transaction of backend %d (billing; it has inserted an event and keeps low watermarks from rising)", pid)
	})
}
