-- Receipts say when an event was published, and under which message id. They are written
-- for topics that ask for them, and one may be lost: publishing needs none of them.

-- An event is its id and created_at. published_at is the database's time of the answer of
-- the destination. Rows are only ever inserted, and leave with the partition of their day.
-- There is no default partition: a receipt without a partition is lost, and counted.
CREATE TABLE outbox.receipt (
    id           bigint      NOT NULL,
    created_at   timestamptz NOT NULL,
    replay       bigint      NOT NULL,
    topic        text        COLLATE "C" NOT NULL,
    message_id   text        NOT NULL,
    destination  text        NOT NULL,
    published_at timestamptz NOT NULL
) PARTITION BY RANGE (published_at);

-- Without a key, PostgreSQL refuses every DELETE on a table that is part of a publication.
ALTER TABLE outbox.receipt REPLICA IDENTITY FULL;

-- The only index, because each costs as much as the row. It is for "starter where".
CREATE INDEX receipt_id ON outbox.receipt (id);

-- The topics that keep receipts, as the workers' configuration has it. A row stays for as
-- long as its topic's receipts after they were turned off (ended_at).
CREATE TABLE outbox.receipt_topic (
    topic    text        COLLATE "C" PRIMARY KEY,
    keep     interval    NOT NULL,
    since    timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);

-- Makes the partition of one UTC day. True: made. False: it is there already. Null: it
-- cannot be made, because it was detached, or because the day is out of range. Writers of
-- receipts do not wait while a partition is attached.
CREATE FUNCTION outbox.make_receipt_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    name text;
BEGIN
    PERFORM outbox.require_read_committed('outbox.make_receipt_partition');
    IF day < '1970-01-01' OR day >= '2270-01-01' THEN
        RETURN NULL;
    END IF;
    name := 'receipt_' || to_char(day, 'YYYYMMDD');
    LOCK TABLE ONLY outbox.receipt IN SHARE UPDATE EXCLUSIVE MODE; -- one maker at a time
    IF EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                       WHERE i.inhparent = 'outbox.receipt'::regclass AND c.relname = name) THEN
        RETURN false;
    ELSIF to_regclass('outbox.' || name) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.receipt INCLUDING INDEXES)', name);
    EXECUTE format('ALTER TABLE outbox.%I REPLICA IDENTITY FULL', name);
    EXECUTE format('ALTER TABLE outbox.receipt ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)',
                   name, day::timestamptz, (day + 1)::timestamptz);
    RETURN true;
END $$;

-- Drops the partition of one UTC day that is over; false if there is none. Its locks are
-- taken at once or not at all, so that no writer waits behind it: the caller sees
-- lock_not_available and tries again. A caller that has tried for long sets
-- outbox.may_queue to "on" in its transaction. Then it waits 50 ms for its locks.
CREATE FUNCTION outbox.drop_receipt_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    name  text        := 'receipt_' || to_char(day, 'YYYYMMDD');
    until timestamptz := clock_timestamp() + interval '50 ms';
BEGIN
    PERFORM outbox.require_read_committed('outbox.drop_receipt_partition');
    IF day >= current_date THEN
        RAISE EXCEPTION 'the day % is not over: its partition of receipts is not dropped', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                           WHERE i.inhparent = 'outbox.receipt'::regclass AND c.relname = name) THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE NOWAIT', name);
    LOOP
        BEGIN
            LOCK TABLE ONLY outbox.receipt IN ACCESS EXCLUSIVE MODE NOWAIT;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > until THEN
                IF current_setting('outbox.may_queue', true) IS DISTINCT FROM 'on' THEN
                    RAISE;
                END IF;
                LOCK TABLE ONLY outbox.receipt IN ACCESS EXCLUSIVE MODE;
                EXIT;
            END IF;
        END;
        PERFORM pg_sleep(0.001);
    END LOOP;
    EXECUTE format('DROP TABLE outbox.%I', name);
    RETURN true;
END $$;

REVOKE ALL ON FUNCTION outbox.make_receipt_partition(date), outbox.drop_receipt_partition(date) FROM PUBLIC;

-- Where schema/roles.sql has been run, the roles go on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, INSERT ON outbox.receipt TO outbox_relay;
        GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.receipt_topic TO outbox_relay;
        GRANT EXECUTE ON FUNCTION outbox.make_receipt_partition(date), outbox.drop_receipt_partition(date) TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

DROP FUNCTION outbox.drop_receipt_partition(date);
DROP FUNCTION outbox.make_receipt_partition(date);
DROP TABLE outbox.receipt_topic;
DROP TABLE outbox.receipt;
