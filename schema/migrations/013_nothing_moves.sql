-- No row of outbox.event ever moves, and no insert fails because of partitions. See
-- docs/decisions/015-no-event-moves.md.

-- Under another isolation a transaction has one snapshot. If that is older than the
-- locks of these functions, it hides events that have become pending since: a partition
-- was dropped with a pending event in it.
CREATE FUNCTION outbox.require_read_committed(caller text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION '% needs a READ COMMITTED transaction, and this one is %', caller, upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Begin it with ISOLATION LEVEL READ COMMITTED: default_transaction_isolation of the session, the role or the database is another.';
    END IF;
END $$;
REVOKE ALL ON FUNCTION outbox.require_read_committed(text) FROM PUBLIC;

-- Makes the partition of one UTC day. True: made. False: it is there already. Null: not
-- now, for one of these reasons:
--   - the default partition has events of the day. They stay there, and so does the day;
--   - today has no partition, and the default one has caught much. Then only tomorrow's
--     is made: PostgreSQL reads the whole default partition for each one that is
--     attached, and producers, who write to it today, wait for that;
--   - it is of no use: the day is over and the default partition has caught much, or it
--     is no day of the years 1970 to 2269.
--
-- A statement keeps the list of partitions with which it began, and a transaction that
-- has inserted an event may keep it for its later statements, too. If it sends a row to
-- the default partition, and a partition for that row was attached meanwhile, PostgreSQL
-- fails it. So a partition is attached while no transaction that has inserted an event,
-- or is about to, is open: SHARE ROW EXCLUSIVE on outbox.event makes sure of it. The lock
-- is waited for 50 ms at most, because producers wait behind it; then the caller sees
-- lock_not_available, and tries again.
--
-- In a database where producers' transactions always overlap there is no such moment. A
-- day that begins in more than twelve hours is then attached without that lock. Only a
-- transaction that is open now could fail: if it still inserts events on that day, or
-- sets created_at to it.
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

-- As before, and it refuses another isolation, and row level security that would hide
-- rows from it.
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

-- Retention of what the default partition has caught: deletes, of a thousand pages of it,
-- the events of days before a day, but for those that are pending or dead letters. Begin
-- with page 0; the answer is the page to go on with, null at the end, and how many events
-- were deleted. The lock keeps the steps of redrives and replays, which make events
-- pending again, away until it is done; the caller sees lock_not_available instead of a
-- wait, and tries again. Producers never wait for it.
CREATE FUNCTION outbox.delete_caught(before date, page bigint, OUT next_page bigint, OUT deleted bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    pages CONSTANT bigint := 1000;
BEGIN
    PERFORM outbox.require_read_committed('outbox.delete_caught');
    IF before > current_date THEN
        RAISE EXCEPTION 'the day before % is not over: its events are not deleted', before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE outbox.operation IN EXCLUSIVE MODE;
    -- Event by event: as a join, the planner reads all that is pending once it holds much.
    EXECUTE format('
        DELETE FROM outbox.event_default e
        WHERE e.ctid >= %L AND e.ctid < %L AND e.created_at < %L
          AND (SELECT p.id FROM outbox.pending p
               WHERE p.topic = e.topic AND p.lane = e.lane AND p.id = e.id AND p.created_at = e.created_at LIMIT 1) IS NULL
          AND (SELECT d.id FROM outbox.dead_letter d
               WHERE d.topic = e.topic AND d.lane = e.lane AND d.id = e.id AND d.created_at = e.created_at LIMIT 1) IS NULL',
        format('(%s,0)', page), format('(%s,0)', page + pages), before::timestamptz);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF page + pages < pg_relation_size('outbox.event_default') / current_setting('block_size')::bigint THEN
        next_page := page + pages;
    END IF;
END $$;
REVOKE ALL ON FUNCTION outbox.delete_caught(date, bigint) FROM PUBLIC;

-- Where schema/roles.sql has been run, the relay's role goes on without running it
-- again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT EXECUTE ON FUNCTION outbox.delete_caught(date, bigint) TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

DROP FUNCTION outbox.delete_caught(date, bigint), outbox.require_read_committed(text);

CREATE OR REPLACE FUNCTION outbox.drop_partition(day date) RETURNS text
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
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', name);
    LOCK TABLE outbox.operation IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM outbox.pending     p WHERE p.created_at >= from_at AND p.created_at < to_at)
    OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.created_at >= from_at AND d.created_at < to_at) THEN
        RETURN 'needed';
    END IF;
    LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;

CREATE OR REPLACE FUNCTION outbox.make_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' AS $$
DECLARE
    much     CONSTANT integer := 10000; -- what moves in a fraction of a second
    name     text        := 'event_' || to_char(day, 'YYYYMMDD');
    from_at  timestamptz := day::timestamptz;
    to_at    timestamptz := (day + 1)::timestamptz;
    columns  text        := 'id, event_id, topic, key, type, payload, content_type, attributes, created_at';
BEGIN
    IF to_regclass('outbox.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF day <> current_date + 1
       AND to_regclass('outbox.event_' || to_char(current_date, 'YYYYMMDD')) IS NULL
       AND (SELECT count(*) FROM (SELECT FROM outbox.event_default LIMIT much + 1) AS caught) > much THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.event INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
    LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH caught AS (DELETE FROM outbox.event_default WHERE created_at >= %L AND created_at < %L RETURNING %s)
                    INSERT INTO outbox.%I (%s) SELECT %s FROM caught', from_at, to_at, columns, name, columns, columns);
    EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    RETURN true;
END $$;
