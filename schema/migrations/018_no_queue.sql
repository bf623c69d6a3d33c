-- Producers wait behind a lock on outbox.event that is waited for, and a producer with a
-- short lock_timeout fails. So partitions are made and dropped with locks that are to be
-- had at once, and those are held for milliseconds. A reader of an expired day stops no
-- producer, and a partition that was detached is not taken for one that is there.

-- Locks outbox.event in a mode, and the default partition for this transaction alone. It asks for 50 ms
-- and never waits in PostgreSQL's queue, so that no producer waits behind it. Then it raises
-- lock_not_available, and the caller tries again.
--
-- Where transactions of producers always overlap, the lock is never to be had at once. A
-- caller that has tried for long sets outbox.may_queue to "on" in its transaction. Then
-- outbox.event is waited for, for as long as lock_timeout allows.
CREATE FUNCTION outbox.lock_without_a_queue(mode text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + interval '50 ms';
BEGIN
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE ONLY outbox.event IN %s MODE NOWAIT', mode);
            LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE NOWAIT;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            EXIT WHEN clock_timestamp() > until AND current_setting('outbox.may_queue', true) = 'on';
            IF clock_timestamp() > until THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(0.001);
    END LOOP;
    EXECUTE format('LOCK TABLE ONLY outbox.event IN %s MODE', mode);
    LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE NOWAIT;
END $$;
REVOKE ALL ON FUNCTION outbox.lock_without_a_queue(text) FROM PUBLIC;

-- As before, but for its locks. True: made. False: it is there already. Null: not now, for
-- one of these reasons:
--   - the default partition has events of the day. They stay there, and so does the day;
--   - today has no partition, and the default one has caught much. Then only tomorrow's is
--     made: PostgreSQL reads the whole default partition for each one that is attached, and
--     producers, who write to it today, wait for that;
--   - it is of no use: the day is over and the default partition has caught much, or it is
--     no day of the years 1970 to 2269;
--   - its partition was detached. No table of that name can be made: null, with a warning.
--
-- A statement keeps the list of partitions with which it began, and a transaction that has
-- inserted an event may keep it for its later statements. If it sends a row to the default
-- partition, and a partition for that row was attached meanwhile, PostgreSQL fails it. So a
-- near day is attached while no transaction that has inserted an event is open: SHARE ROW
-- EXCLUSIVE on outbox.event makes sure of it, and producers wait for the milliseconds that
-- the attachment takes.
--
-- A day that begins in more than twelve hours is attached beside open transactions, and no
-- producer waits. (If today has no partition, producers write to the default one, and wait
-- for its lock.) Twelve hours are no wait: they are how long a transaction that is open now
-- would have to stay open, and then insert an event, to fail.
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
                PERFORM outbox.lock_without_a_queue('SHARE ROW EXCLUSIVE');
                alone := true;
            EXCEPTION WHEN lock_not_available THEN
                IF NOT far THEN
                    RAISE;
                END IF;
            END;
        END IF;
        IF NOT alone THEN
            PERFORM outbox.lock_without_a_queue('SHARE UPDATE EXCLUSIVE');
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
        -- Producers do not wait while a default partition that they do not use is read.
        IF NOT (big AND covered AND far) THEN
            BEGIN
                LOCK TABLE ONLY outbox.event IN SHARE ROW EXCLUSIVE MODE;
                alone := true;
            EXCEPTION WHEN lock_not_available THEN
                IF NOT far THEN
                    RAISE;
                END IF;
            END;
        END IF;
        IF NOT alone THEN -- in the order in which drop_partition takes its locks
            LOCK TABLE ONLY outbox.event IN SHARE UPDATE EXCLUSIVE MODE;
        END IF;
        LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE;
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
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', name);
    LOCK TABLE outbox.operation IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM outbox.pending     p WHERE p.created_at >= from_at AND p.created_at < to_at)
    OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.created_at >= from_at AND d.created_at < to_at) THEN
        RETURN 'needed';
    END IF;
    -- Without ONLY it would wait for each partition in turn, with producers behind it.
    LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;
DROP FUNCTION outbox.lock_without_a_queue(text);
