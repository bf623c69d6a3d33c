package bench

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// Statistics of a moment without pending events made a join cheap that reads all edges for each event. It
// took 40 s of a drain.
func TestWatcher_LooksEdgesUpByTheirKeysWhateverTheStatisticsSay(t *testing.T) {
	pool := testenv.Database(t)
	const fill = `INSERT INTO outbox.event (topic, key, type, payload)
		SELECT 'topic-' || i % 200, i::text, 'T', 'x' FROM generate_series(1, 20000) i`
	for _, sql := range []string{fill, `DELETE FROM outbox.pending`, `ANALYZE outbox.pending`, fill} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	fx := &fixture{env: stack.Vars{"DATABASE_URL=" + pool.Config().ConnString()}}
	w, err := fx.watch(t.Context())
	require.NoError(t, err)
	defer w.close(t.Context())
	begun, err := w.begun(t.Context())
	require.NoError(t, err)
	require.False(t, begun)

	for _, sql := range []string{leftSQL, leftCountSQL} {
		rows, err := w.conn.Query(t.Context(), "EXPLAIN "+sql, w.topics, w.lanes, w.first)
		require.NoError(t, err)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		text := strings.Join(plan, "\n")
		require.Regexp(t, `Index Cond: \(.*topic = .*lane = .*id = .*\)`, text)
		require.NotContains(t, text, "Join Filter", text)
	}
}
