-- The keys of the relay's own tables compare bytes: COLLATE "C". In the collation of the
-- database their order is people's, and may change with a new version of the operating
-- system, or where a copy of the database is restored. An index that was built before then
-- finds a part of its rows no more: lanes came twice, topics were not claimed.
--
-- Producers touch none of these tables. The key of pending is in "C" already.
SET LOCAL lock_timeout = '50ms';
SET LOCAL statement_timeout = 0;
LOCK TABLE outbox.operation, outbox.lane, outbox.topic, outbox.refusal, outbox.dead_letter, outbox.discarded IN ACCESS EXCLUSIVE MODE;

-- A database that this has happened to has rows twice. They are found without the index.
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_bitmapscan = off;
-- A lane begins anew, once the attempts that hold it have fallen silent.
WITH gone AS (
    DELETE FROM outbox.lane
    WHERE ctid = ANY (ARRAY(
        SELECT place FROM (SELECT ctid AS place, count(*) OVER (PARTITION BY topic COLLATE "C", lane) AS n FROM outbox.lane) l WHERE n > 1))
    RETURNING topic, lane, leased_until)
INSERT INTO outbox.lane (topic, lane, leased_until)
SELECT topic COLLATE "C", lane, max(leased_until) FROM gone GROUP BY 1, 2;
DELETE FROM outbox.topic
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C" ORDER BY paused_at NULLS LAST, recovery_paused_until DESC NULLS LAST) AS n FROM outbox.topic) t WHERE n > 1));
DELETE FROM outbox.refusal
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay ORDER BY first_at) AS n FROM outbox.refusal) r WHERE n > 1));
-- A unique index that compares bytes leaves no row twice; then many dead letters are not
-- read while the tables are locked.
DO $$ BEGIN
    IF to_regclass('outbox.dead_letter_in_c') IS NULL THEN
        DELETE FROM outbox.dead_letter
        WHERE ctid = ANY (ARRAY(
            SELECT place FROM (SELECT ctid AS place, row_number() OVER (
                PARTITION BY topic COLLATE "C", lane, id, replay, created_at ORDER BY dead_at) AS n FROM outbox.dead_letter) d WHERE n > 1));
        DELETE FROM outbox.discarded
        WHERE ctid = ANY (ARRAY(
            SELECT place FROM (SELECT ctid AS place, row_number() OVER (
                PARTITION BY topic COLLATE "C", lane, id, replay, created_at ORDER BY dead_at) AS n FROM outbox.discarded) x WHERE n > 1));
    END IF;
END $$;

-- A column that a view uses cannot change. The view is replaced by one of the same columns
-- that uses none, and then by itself: it keeps its owner, rights, comments and dependents.
DO $$
DECLARE
    status     CONSTANT regclass  := 'outbox.status'::regclass;
    definition CONSTANT text      := pg_get_viewdef(status);
    options    CONSTANT text      := (SELECT coalesce('WITH (' || array_to_string(reloptions, ', ') || ') ', '') FROM pg_class WHERE oid = status);
    nothing    CONSTANT text      := (
        SELECT string_agg(format('NULL::%s AS %I', format_type(atttypid, atttypmod), attname), ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = status AND attnum > 0);
    prepared   CONSTANT boolean   := to_regclass('outbox.dead_letter_in_c') IS NOT NULL; -- not by an earlier release
    replicates record;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW outbox.status %sAS SELECT %s', options, nothing);
    ALTER TABLE outbox.lane        ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.topic       ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.refusal     ALTER COLUMN topic TYPE text COLLATE "C";
    -- PostgreSQL keeps an index that compares by the new collation already, and builds
    -- every other again.
    SELECT bool_or(indexrelid = 'outbox.dead_letter_pkey'::regclass) AS dead_letter,
           bool_or(indexrelid = 'outbox.discarded_pkey'::regclass)   AS discarded
    INTO replicates FROM pg_index WHERE indisreplident;
    IF prepared THEN
        DROP INDEX outbox.dead_letter_key; -- if there are dead letters, a later migration makes it again, beside the relay
        ALTER TABLE outbox.dead_letter DROP CONSTRAINT dead_letter_pkey;
        ALTER TABLE outbox.discarded   DROP CONSTRAINT discarded_pkey;
    END IF;
    ALTER TABLE outbox.discarded   ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.dead_letter ALTER COLUMN topic TYPE text COLLATE "C", ALTER COLUMN key TYPE text COLLATE "C";
    IF prepared THEN
        ALTER TABLE outbox.dead_letter ADD CONSTRAINT dead_letter_pkey PRIMARY KEY USING INDEX dead_letter_in_c;
        ALTER TABLE outbox.discarded   ADD CONSTRAINT discarded_pkey   PRIMARY KEY USING INDEX discarded_in_c;
        IF NOT EXISTS (SELECT FROM outbox.dead_letter) THEN -- nothing to build
            DROP INDEX outbox.dead_letter_key_in_c;
            CREATE INDEX dead_letter_key ON outbox.dead_letter (topic, key) WHERE key <> '';
        END IF;
        IF replicates.dead_letter THEN
            ALTER TABLE outbox.dead_letter REPLICA IDENTITY USING INDEX dead_letter_pkey;
        END IF;
        IF replicates.discarded THEN
            ALTER TABLE outbox.discarded REPLICA IDENTITY USING INDEX discarded_pkey;
        END IF;
    END IF;
    DROP INDEX outbox.operation_under_way;
    ALTER TABLE outbox.operation   ALTER COLUMN topic TYPE text COLLATE "C", ALTER COLUMN kind TYPE text COLLATE "C";
    CREATE UNIQUE INDEX operation_under_way ON outbox.operation (topic, kind, md5(selection::text) COLLATE "C") WHERE finished_at IS NULL;
    EXECUTE format('CREATE OR REPLACE VIEW outbox.status %sAS %s', options, definition);
END $$;

---- create above / drop below ----

DO $$
DECLARE definition CONSTANT text := pg_get_viewdef('outbox.status'::regclass);
BEGIN
    DROP VIEW outbox.status;
    ALTER TABLE outbox.lane        ALTER COLUMN topic TYPE text COLLATE "default";
    ALTER TABLE outbox.topic       ALTER COLUMN topic TYPE text COLLATE "default";
    ALTER TABLE outbox.refusal     ALTER COLUMN topic TYPE text COLLATE "default";
    ALTER TABLE outbox.discarded   ALTER COLUMN topic TYPE text COLLATE "default";
    ALTER TABLE outbox.dead_letter ALTER COLUMN topic TYPE text COLLATE "default", ALTER COLUMN key TYPE text COLLATE "default";
    DROP INDEX IF EXISTS outbox.dead_letter_key_in_c;
    CREATE INDEX IF NOT EXISTS dead_letter_key ON outbox.dead_letter (topic, key) WHERE key <> '';
    DROP INDEX outbox.operation_under_way;
    ALTER TABLE outbox.operation   ALTER COLUMN topic TYPE text COLLATE "default", ALTER COLUMN kind TYPE text COLLATE "default";
    CREATE UNIQUE INDEX operation_under_way ON outbox.operation (topic, kind, md5(selection::text)) WHERE finished_at IS NULL;
    EXECUTE 'CREATE VIEW outbox.status AS ' || definition;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.status TO outbox_relay;
    END IF;
END $$;
