-- After a backlog, the files of outbox.pending stayed large: 250 MB of index after three million events. Vacuum gives
-- back the end of the table only, and locks the table against producers for that.
--
-- No producer waits for this lock, nor behind it. A vacuum has it, and PostgreSQL ends one of autovacuum after a
-- second (deadlock_timeout).
SET LOCAL lock_timeout = '5s';
ALTER TABLE outbox.pending SET (vacuum_truncate = off);

-- Empties the files of outbox.pending while no event is pending, if they are large. True: done. False: they are small.
-- Null: not now, because events are pending, or the table is in use.
--
-- Producers wait for this lock, so it is asked for without a wait, and nothing that may take long happens under it.
-- With a snapshot held open somewhere, even the look for an event takes long, because it meets all events that
-- were settled since. So a look without the lock comes first, and has to be quick. Both looks begin at the first entry of the index;
-- a scan of the table would read all of its empty pages.
CREATE FUNCTION outbox.shrink_pending() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET row_security = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    large CONSTANT bigint := 32 * 1024 * 1024;
    quick CONSTANT interval := '5 ms';
    began timestamptz := clock_timestamp();
BEGIN
    PERFORM outbox.require_read_committed('outbox.shrink_pending');
    IF pg_total_relation_size('outbox.pending') < large THEN
        RETURN false;
    END IF;
    PERFORM FROM outbox.pending ORDER BY topic, lane, id, replay LIMIT 1;
    IF FOUND OR clock_timestamp() - began > quick THEN
        RETURN NULL;
    END IF;
    BEGIN
        LOCK TABLE outbox.pending IN ACCESS EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN NULL;
    END;
    PERFORM FROM outbox.pending ORDER BY topic, lane, id, replay LIMIT 1;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    -- The commit waits for no synchronous standby while it has the lock. If the primary is lost then, only the
    -- truncation is: no row was left.
    PERFORM set_config('synchronous_commit', 'local', true);
    TRUNCATE outbox.pending;
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION outbox.shrink_pending() FROM PUBLIC;

-- Where schema/roles.sql has been run, the relay's role goes on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT EXECUTE ON FUNCTION outbox.shrink_pending() TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

SET LOCAL lock_timeout = '50ms';
DROP FUNCTION outbox.shrink_pending();
ALTER TABLE outbox.pending RESET (vacuum_truncate);
