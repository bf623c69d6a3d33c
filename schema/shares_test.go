package schema_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/schema"
)

// Producers have written, and a worker of the version before has claims. Both go on.
func TestMigrate_MakesSharesBesideProducersAndClaims(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "shares")
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) SELECT 'orders', generate_series(0, 15)`)
	exec(t, pool, `UPDATE outbox.lane SET claim_id = gen_random_uuid(), leased_until = now() + interval '1 minute' WHERE lane < 4`)
	claims := column(t, pool, `SELECT claim_id::text FROM outbox.lane ORDER BY lane LIMIT 4`)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
	p := producers(t, pool, []string{"orders", "audit"})
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		_, err := schema.Migrate(t.Context(), c.Conn())
		return err
	}), "it does not wait for the transaction of a producer")
	longest, committed := p.end()
	t.Logf("%d inserts, the longest took %s", committed, longest)
	require.Less(t, longest, time.Second)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, claims, column(t, pool, `SELECT claim_id::text FROM outbox.lane ORDER BY lane LIMIT 4`))
	require.Equal(t, 16, query[int](t, pool, `SELECT count(*) FROM outbox.share WHERE worker IS NULL`))
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM outbox.lane WHERE apart`))
}

func TestMigrate_SharesGoDownAndUpAgain(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane, apart) SELECT 'orders', generate_series(0, 15), true`)
	exec(t, pool, `UPDATE outbox.share SET worker = gen_random_uuid(), leased_until = now() + interval '1 hour'`)
	migrateDownTo(t, pool, "shares")
	require.True(t, query[bool](t, pool, `SELECT to_regclass('outbox.share') IS NULL AND to_regclass('outbox.worker') IS NULL`))
	exec(t, pool, `UPDATE outbox.lane SET claim_id = gen_random_uuid()`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, 16, query[int](t, pool, `SELECT count(*) FROM outbox.lane WHERE claim_id IS NOT NULL AND NOT apart`))
	require.Equal(t, 16, query[int](t, pool, `SELECT count(*) FROM outbox.share WHERE worker IS NULL AND mixed`))
}

func TestMigrate_PutsSharesBack(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `DELETE FROM outbox.share WHERE lane > 3`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, 16, query[int](t, pool, `SELECT count(*) FROM outbox.share`))
}

// A worker of the version before whose role has no rights of its own on the new tables.
func TestShareTrigger_WorksForARoleOfTheVersionBefore(t *testing.T) {
	pool := testenv.Database(t)
	relay := testenv.AsRole(t, pool, "outbox_relay")
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) SELECT 'orders', generate_series(0, 15)`)
	exec(t, pool, `REVOKE ALL ON outbox.share, outbox.worker FROM outbox_relay`)
	exec(t, pool, `REVOKE ALL ON FUNCTION outbox.share_is_free(smallint) FROM outbox_relay`)
	exec(t, pool, `UPDATE outbox.share SET worker = gen_random_uuid(), leased_until = now() + interval '1 hour' WHERE lane >= 10`)
	exec(t, relay, `UPDATE outbox.lane SET claim_id = gen_random_uuid()`)
	require.Equal(t, 10, query[int](t, pool, `SELECT count(*) FROM outbox.lane WHERE claim_id IS NOT NULL`))
	exec(t, relay, `UPDATE outbox.lane SET reserved_until = NULL`)
	require.Equal(t, 6, query[int](t, pool, `SELECT count(*) FROM outbox.lane WHERE reserved_until > now()`))
}

// A claim must not take the rows of a lane's holder for absent.
func TestShareTrigger_FailsWhereSharesAreHidden(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1)`)
	exec(t, pool, `ALTER TABLE outbox.share ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`)
	_, err := pool.Exec(t.Context(), `UPDATE outbox.lane SET claim_id = gen_random_uuid()`)
	require.ErrorContains(t, err, "row-level security")
}

// A claim updates its lanes in place, without a new entry in an index.
func TestShareTrigger_LeavesClaimsInPlace(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) SELECT 'orders', generate_series(0, 15)`)
	exec(t, pool, `UPDATE outbox.lane SET claim_id = gen_random_uuid(), leased_until = now(), claimed_at = now()`)
	exec(t, pool, `UPDATE outbox.lane SET claim_id = NULL, leased_until = NULL`)
	require.Eventually(t, func() bool {
		return query[bool](t, pool, `SELECT n_tup_upd = 32 AND n_tup_hot_upd = 32 FROM pg_stat_user_tables WHERE relid = 'outbox.lane'::regclass`)
	}, 10*time.Second, 10*time.Millisecond)
}
