-- A reader of an expired day stops no producer, and a partition that was detached is not
-- taken for one that is there.

-- As before, but for partitions that were detached: one is no partition any more, and no
-- table of its name can be made. Null then, with a warning.
CREATE OR REPLACE FUNCTION outbox.make_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    much    CONSTANT integer := 10000; -- what is read in a moment
    today   CONSTANT date    := clock_timestamp()::date;
    name    text;
    from_at timestamptz;
    to_at   timestamptz;
    far     boolean; -- so far off that no transaction of now will insert an event of the day
    covered boolean; -- today has a partition
    big     boolean; -- the default partition has caught much
    alone   boolean := false; -- no producer's transaction is open
BEGIN
    PERFORM outbox.require_read_committed('outbox.make_partition');
    IF day < '1970-01-01' OR day >= '2270-01-01' THEN
        RETURN NULL;
    END IF;
    name := 'event_' || to_char(day, 'YYYYMMDD');
    from_at := day::timestamptz;
    to_at   := (day + 1)::timestamptz;
    IF EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                       WHERE i.inhparent = 'outbox.event'::regclass AND c.relname = name) THEN
        RETURN false;
    ELSIF to_regclass('outbox.' || name) IS NOT NULL THEN
        RAISE WARNING 'the table outbox.% exists and is no partition of outbox.event: it was detached', name
            USING HINT = 'Attach it again. Meanwhile events of the day go to the default partition.';
        RETURN NULL;
    END IF;
    far     := from_at > clock_timestamp() + interval '12 hours';
    covered := EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                       WHERE i.inhparent = 'outbox.event'::regclass AND c.relname = 'event_' || to_char(today, 'YYYYMMDD'));
    big     := (SELECT count(*) FROM (SELECT FROM outbox.event_default LIMIT much + 1) AS caught) > much;
    IF big AND (day < today OR NOT covered AND day <> today + 1)
       OR EXISTS (SELECT FROM outbox.event_default e WHERE e.created_at >= from_at AND e.created_at < to_at) THEN
        RETURN NULL;
    END IF;
    BEGIN
        EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.event INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
        IF NOT (far AND covered) THEN
            BEGIN
                PERFORM outbox.lock_without_a_queue('SHARE ROW EXCLUSIVE', ARRAY['outbox.event_default']);
                alone := true;
            EXCEPTION WHEN lock_not_available THEN
                IF NOT far THEN
                    RAISE;
                END IF;
            END;
        END IF;
        IF NOT alone THEN
            PERFORM outbox.lock_without_a_queue('SHARE UPDATE EXCLUSIVE', ARRAY['outbox.event_default']);
        END IF;
        EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    EXCEPTION WHEN check_violation THEN
        RETURN NULL; -- an event of the day has come into the default partition since the look
    END;
    -- A producer that waits to write to the default partition may have a row of this day.
    IF NOT alone AND covered AND EXISTS (
        SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.relation = 'outbox.event_default'::regclass
          AND l.mode = 'RowExclusiveLock' AND NOT l.granted) THEN
        RAISE EXCEPTION 'a producer waits for the default partition' USING ERRCODE = 'lock_not_available';
    END IF;
    RETURN true;
END $$;

-- As before, but it locks the partition before outbox.event: while a session has the
-- partition, nothing that producers need is asked for. The three locks that DROP TABLE needs
-- are taken together or not at all, because readers that have outbox.event wait for the
-- partition. A table that was detached is not dropped.
CREATE OR REPLACE FUNCTION outbox.drop_partition(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    name    text        := 'event_' || to_char(day, 'YYYYMMDD');
    from_at timestamptz := day::timestamptz;
    to_at   timestamptz := (day + 1)::timestamptz;
    until   timestamptz;
    wanted  text;
    queues  boolean := false;
BEGIN
    PERFORM outbox.require_read_committed('outbox.drop_partition');
    IF day >= current_date THEN
        RAISE EXCEPTION 'the day % is not over: its partition is not dropped', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                       WHERE i.inhparent = 'outbox.event'::regclass AND c.relname = name) THEN
        RETURN 'absent';
    END IF;
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE NOWAIT', name);
    LOCK TABLE outbox.operation IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM outbox.pending     p WHERE p.created_at >= from_at AND p.created_at < to_at)
    OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.created_at >= from_at AND d.created_at < to_at) THEN
        RETURN 'needed';
    END IF;
    until := clock_timestamp() + interval '50 ms';
    LOOP
        BEGIN
            wanted := name;
            EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE', name) || CASE WHEN queues THEN '' ELSE ' NOWAIT' END;
            wanted := 'event';
            EXECUTE 'LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE' || CASE WHEN queues THEN '' ELSE ' NOWAIT' END;
            wanted := 'event_default';
            LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE NOWAIT;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF queues OR clock_timestamp() > until AND current_setting('outbox.may_queue', true) IS DISTINCT FROM 'on' THEN
                RAISE EXCEPTION 'outbox.% is in use by %', wanted, coalesce((
                    SELECT 'session ' || string_agg(pid::text, ', ') FROM (
                        SELECT DISTINCT l.pid FROM pg_locks l
                        WHERE l.locktype = 'relation' AND l.relation = ('outbox.' || wanted)::regclass AND l.granted AND l.pid <> pg_backend_pid()
                          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                        ORDER BY l.pid LIMIT 5) o), 'a transaction that is prepared or has ended')
                    USING ERRCODE = 'lock_not_available';
            END IF;
            queues := clock_timestamp() > until;
        END;
        IF NOT queues THEN
            PERFORM pg_sleep(0.001);
        END IF;
    END LOOP;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;

---- create above / drop below ----

CREATE OR REPLACE FUNCTION outbox.make_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    much    CONSTANT integer := 10000; -- what is read in a moment
    today   CONSTANT date    := clock_timestamp()::date;
    name    text;
    from_at timestamptz;
    to_at   timestamptz;
    far     boolean; -- so far off that no transaction of now will insert an event of the day
    covered boolean; -- today has a partition
    big     boolean; -- the default partition has caught much
    alone   boolean := false; -- no producer's transaction is open
BEGIN
    PERFORM outbox.require_read_committed('outbox.make_partition');
    IF day < '1970-01-01' OR day >= '2270-01-01' THEN
        RETURN NULL;
    END IF;
    name := 'event_' || to_char(day, 'YYYYMMDD');
    IF to_regclass('outbox.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    from_at := day::timestamptz;
    to_at   := (day + 1)::timestamptz;
    far     := from_at > clock_timestamp() + interval '12 hours';
    covered := to_regclass('outbox.event_' || to_char(today, 'YYYYMMDD')) IS NOT NULL;
    big     := (SELECT count(*) FROM (SELECT FROM outbox.event_default LIMIT much + 1) AS caught) > much;
    IF big AND (day < today OR NOT covered AND day <> today + 1)
       OR EXISTS (SELECT FROM outbox.event_default e WHERE e.created_at >= from_at AND e.created_at < to_at) THEN
        RETURN NULL;
    END IF;
    BEGIN
        EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.event INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
        IF NOT (far AND covered) THEN
            BEGIN
                PERFORM outbox.lock_without_a_queue('SHARE ROW EXCLUSIVE', ARRAY['outbox.event_default']);
                alone := true;
            EXCEPTION WHEN lock_not_available THEN
                IF NOT far THEN
                    RAISE;
                END IF;
            END;
        END IF;
        IF NOT alone THEN
            PERFORM outbox.lock_without_a_queue('SHARE UPDATE EXCLUSIVE', ARRAY['outbox.event_default']);
        END IF;
        EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    EXCEPTION WHEN check_violation THEN
        RETURN NULL; -- an event of the day has come into the default partition since the look
    END;
    -- A producer that waits to write to the default partition may have a row of this day.
    IF NOT alone AND covered AND EXISTS (
        SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.relation = 'outbox.event_default'::regclass
          AND l.mode = 'RowExclusiveLock' AND NOT l.granted) THEN
        RAISE EXCEPTION 'a producer waits for the default partition' USING ERRCODE = 'lock_not_available';
    END IF;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION outbox.drop_partition(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    name    text        := 'event_' || to_char(day, 'YYYYMMDD');
    from_at timestamptz := day::timestamptz;
    to_at   timestamptz := (day + 1)::timestamptz;
BEGIN
    PERFORM outbox.require_read_committed('outbox.drop_partition');
    IF day >= current_date THEN
        RAISE EXCEPTION 'the day % is not over: its partition is not dropped', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass('outbox.' || name) IS NULL THEN
        RETURN 'absent';
    END IF;
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE NOWAIT', name);
    LOCK TABLE outbox.operation IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM outbox.pending     p WHERE p.created_at >= from_at AND p.created_at < to_at)
    OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.created_at >= from_at AND d.created_at < to_at) THEN
        RETURN 'needed';
    END IF;
    -- DROP TABLE needs these three. It would wait for the last two with all producers behind it.
    PERFORM outbox.lock_without_a_queue('ACCESS EXCLUSIVE', ARRAY[format('outbox.%I', name), 'outbox.event_default']);
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;
