-- Partitions are made and dropped without a look at many rows while producers wait.

-- Drops the partition of one UTC day that is over, with all its events: "dropped",
-- "absent", or "needed" if an event of it is still to be published or a dead letter.
-- Before it looks, it makes sure that nothing of the day can become either: a
-- transaction that writes to the day's table late, and the steps of a redrive or
-- replay, come before it or wait. Only when that is certain does it stop all producers, for
-- the moment that dropping a table takes. If another session is in the way, the caller
-- gets lock_not_available instead of a wait, and tries again.
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
    -- Without ONLY it would wait for each partition in turn, with producers behind it.
    LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;

-- Makes the partition of one UTC day; false if it is there already. It is made apart
-- and then attached, because CREATE TABLE ... PARTITION OF waits for every open
-- producer and makes all later ones wait behind it. Rows of that day that the default
-- partition has caught move into it first; they fire no trigger, so they are not
-- published again. The caller sees lock_not_available instead of a wait when producers
-- are in the way, and tries again.
--
-- Null: later. While there is no partition for today, producers write to the default
-- one. If that has many events, producers would wait while the function moves them, and
-- while PostgreSQL reads them for each day that it attaches. So the function makes only
-- tomorrow's partition, and from tomorrow on no producer waits for the other days.
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
    -- Attaching scans the default partition under this lock; taken first, so that
    -- no row arrives between the move and the scan.
    LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH caught AS (DELETE FROM outbox.event_default WHERE created_at >= %L AND created_at < %L RETURNING %s)
                    INSERT INTO outbox.%I (%s) SELECT %s FROM caught', from_at, to_at, columns, name, columns, columns);
    EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    RETURN true;
END $$;

---- create above / drop below ----

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
    LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM outbox.pending     p WHERE p.created_at >= from_at AND p.created_at < to_at)
    OR EXISTS (SELECT FROM outbox.dead_letter d WHERE d.created_at >= from_at AND d.created_at < to_at) THEN
        RETURN 'needed';
    END IF;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN 'dropped';
END $$;

CREATE OR REPLACE FUNCTION outbox.make_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' AS $$
DECLARE
    name     text        := 'event_' || to_char(day, 'YYYYMMDD');
    from_at  timestamptz := day::timestamptz;
    to_at    timestamptz := (day + 1)::timestamptz;
    columns  text        := 'id, event_id, topic, key, type, payload, content_type, attributes, created_at';
BEGIN
    IF to_regclass('outbox.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.event INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
    -- Attaching scans the default partition under this lock; taken first, so that
    -- no row arrives between the move and the scan.
    LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH caught AS (DELETE FROM outbox.event_default WHERE created_at >= %L AND created_at < %L RETURNING %s)
                    INSERT INTO outbox.%I (%s) SELECT %s FROM caught', from_at, to_at, columns, name, columns, columns);
    EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    RETURN true;
END $$;
