-- The index that becomes pending's primary key in the next migration, and those of dead
-- letters, which may be many. Producers and the relay use the tables, so the indexes are
-- built beside them. PostgreSQL builds it outside of a
-- transaction, and waits for every transaction that is open in the database; if that is
-- interrupted, it leaves an index behind that is of no use. Each statement may be run
-- again.

---- tern: disable-tx ----

SET lock_timeout = 0;
SET statement_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS outbox.pending_in_c;
DROP INDEX CONCURRENTLY IF EXISTS outbox.dead_letter_in_c;
DROP INDEX CONCURRENTLY IF EXISTS outbox.dead_letter_key_in_c;
DROP INDEX CONCURRENTLY IF EXISTS outbox.discarded_in_c;
-- Where the collation of the database has changed under the old index, a redriven event
-- may be pending twice, and a dead letter or a discarded one stored twice.
DELETE FROM outbox.pending
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay, created_at) AS n FROM outbox.pending) p WHERE n > 1));
DELETE FROM outbox.dead_letter
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay, created_at ORDER BY dead_at) AS n FROM outbox.dead_letter) d WHERE n > 1));
DELETE FROM outbox.discarded
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay, created_at ORDER BY dead_at) AS n FROM outbox.discarded) x WHERE n > 1));
-- pg_locks shows every open transaction. pg_stat_activity hides since when from a role
-- that is not a member of pg_read_all_stats.
DO $$
DECLARE open CONSTANT text := (
    SELECT string_agg(format('%s (%s%s)', o.pid, coalesce(nullif(o.application_name, ''), o.usename), ', since ' || o.xact_start), ', ')
    FROM (SELECT a.* FROM pg_stat_activity a
          WHERE a.datname = current_database() AND a.usename IS NOT NULL AND a.pid <> pg_backend_pid()
            AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted)
          ORDER BY a.xact_start LIMIT 5) o);
BEGIN
    IF EXISTS (SELECT FROM outbox.pending) OR EXISTS (SELECT FROM outbox.dead_letter) OR EXISTS (SELECT FROM outbox.discarded) THEN
        RAISE INFO 'New indexes of outbox.pending, dead_letter and discarded are built while everything goes on. This waits for all transactions that are open in the database, also of other programs. Sessions with an open transaction, the oldest first: %. To list them again, as a member of pg_read_all_stats: SELECT pid, application_name, state, xact_start FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL ORDER BY xact_start; SELECT gid, prepared FROM pg_prepared_xacts;',
            coalesce(open, 'none');
    END IF;
END $$;
CREATE UNIQUE INDEX CONCURRENTLY pending_in_c ON outbox.pending (topic COLLATE "C", lane, id, replay);
CREATE UNIQUE INDEX CONCURRENTLY dead_letter_in_c ON outbox.dead_letter (topic COLLATE "C", lane, id, replay);
-- Not a partial one: PostgreSQL would build it again when the type of the column changes.
CREATE INDEX CONCURRENTLY dead_letter_key_in_c ON outbox.dead_letter (topic COLLATE "C", key COLLATE "C");
CREATE UNIQUE INDEX CONCURRENTLY discarded_in_c ON outbox.discarded (topic COLLATE "C", lane, id, replay);
SET lock_timeout = '50ms'; -- as before: see Migrate

---- create above / drop below ----

DROP INDEX outbox.pending_in_c;
DROP INDEX IF EXISTS outbox.dead_letter_in_c, outbox.dead_letter_key_in_c, outbox.discarded_in_c;
