-- The index that becomes pending's primary key in the next migration. Producers write to
-- the table, so the index is built beside them. PostgreSQL builds it outside of a
-- transaction, and waits for every transaction that is open in the database; if that is
-- interrupted, it leaves an index behind that is of no use. Each statement may be run
-- again.

---- tern: disable-tx ----

SET lock_timeout = 0;
SET statement_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS outbox.pending_in_c;
-- Where the collation of the database has changed under the old index, a redriven event
-- may be pending twice.
DELETE FROM outbox.pending
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay, created_at) AS n FROM outbox.pending) p WHERE n > 1));
DO $$
DECLARE open CONSTANT text := (
    SELECT string_agg(format('%s (%s, %s, since %s)', a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), a.state, a.xact_start), ', ')
    FROM (SELECT * FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
          ORDER BY xact_start LIMIT 5) a);
BEGIN
    IF EXISTS (SELECT FROM outbox.pending) THEN
        RAISE INFO 'A new index of outbox.pending is built while everything goes on. This waits for all transactions that are open in the database, also of other programs. Sessions with an open transaction, the oldest first: %. List them again: SELECT pid, application_name, state, xact_start FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL ORDER BY xact_start; SELECT gid, prepared FROM pg_prepared_xacts;',
            coalesce(open, 'none');
    END IF;
END $$;
CREATE UNIQUE INDEX CONCURRENTLY pending_in_c ON outbox.pending (topic COLLATE "C", lane, id, replay);

---- create above / drop below ----

DROP INDEX outbox.pending_in_c;
