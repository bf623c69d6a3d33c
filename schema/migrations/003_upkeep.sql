-- Partitions are made and dropped by the relay's own role, which owns nothing. It
-- may do that and no more: these functions run as the owner.

ALTER FUNCTION outbox.make_partition(date) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

-- Drops the partition of one UTC day that is over, with all its events: "dropped",
-- "absent", or "needed" if an event of it is still to be published or a dead
-- letter. The look is taken under the lock, behind every transaction that has
-- written to the table: an event that commits late is seen. If producers
-- are in the way, the caller gets lock_not_available instead of a wait, and tries
-- again, because a session that waits for this lock stops all producers.
CREATE FUNCTION outbox.drop_partition(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' AS $$
DECLARE
    name    text        := 'event_' || to_char(day, 'YYYYMMDD');
    from_at timestamptz := day::timestamptz;
    to_at   timestamptz := (day + 1)::timestamptz;
BEGIN
    IF day >= current_date THEN
        RAISE EXCEPTION 'the day % is not over: its partition is not dropped', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass('outbox.' || name) IS NULL THEN
        RETURN 'absent';
    END IF;
    LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM outbox.pending     p WHERE p.created_at >= from_at AND p.created_at < to_at)
    OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.created_at >= from_at AND d.created_at < to_at) THEN
        RETURN 'needed';
    END IF;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;
REVOKE ALL ON FUNCTION outbox.drop_partition(date) FROM PUBLIC;

-- How many events the default partition has caught, by UTC day.
CREATE FUNCTION outbox.caught() RETURNS TABLE (day date, events bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (e.created_at AT TIME ZONE 'UTC')::date, count(*) FROM outbox.event_default e GROUP BY 1
$$;
REVOKE ALL ON FUNCTION outbox.caught() FROM PUBLIC;

-- Where schema/roles.sql has been run, the relay's role goes on without running it
-- again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT EXECUTE ON FUNCTION outbox.make_partition(date), outbox.drop_partition(date), outbox.caught() TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        REVOKE EXECUTE ON FUNCTION outbox.make_partition(date) FROM outbox_relay;
    END IF;
END $$;
DROP FUNCTION outbox.drop_partition(date), outbox.caught();
ALTER FUNCTION outbox.make_partition(date) SECURITY INVOKER RESET search_path;
