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
DELETE FROM outbox.dead_letter
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay, created_at ORDER BY dead_at) AS n FROM outbox.dead_letter) d WHERE n > 1));
DELETE FROM outbox.discarded
WHERE ctid = ANY (ARRAY(
    SELECT place FROM (SELECT ctid AS place, row_number() OVER (
        PARTITION BY topic COLLATE "C", lane, id, replay, created_at ORDER BY dead_at) AS n FROM outbox.discarded) x WHERE n > 1));

-- A column that a view shows cannot change. The view comes back as it was, with the
-- rights that were given on it.
DO $$
DECLARE
    definition CONSTANT text      := pg_get_viewdef('outbox.status'::regclass);
    options    CONSTANT text[]    := (SELECT reloptions FROM pg_class WHERE oid = 'outbox.status'::regclass);
    rights     CONSTANT aclitem[] := (SELECT coalesce(relacl, acldefault('r', relowner)) FROM pg_class WHERE oid = 'outbox.status'::regclass);
    granted    record;
BEGIN
    DROP VIEW outbox.status;
    ALTER TABLE outbox.lane        ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.topic       ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.refusal     ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.discarded   ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.dead_letter ALTER COLUMN topic TYPE text COLLATE "C", ALTER COLUMN key TYPE text COLLATE "C";
    DROP INDEX outbox.operation_under_way;
    ALTER TABLE outbox.operation   ALTER COLUMN topic TYPE text COLLATE "C", ALTER COLUMN kind TYPE text COLLATE "C";
    CREATE UNIQUE INDEX operation_under_way ON outbox.operation (topic, kind, md5(selection::text) COLLATE "C") WHERE finished_at IS NULL;
    EXECUTE 'CREATE VIEW outbox.status '
        || coalesce('WITH (' || array_to_string(options, ', ') || ') ', '') || 'AS ' || definition;
    FOR granted IN SELECT * FROM aclexplode(rights) LOOP
        EXECUTE format('GRANT %s ON outbox.status TO %s%s', granted.privilege_type,
                       CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,
                       CASE WHEN granted.is_grantable AND granted.grantee <> 0 THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
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
    DROP INDEX outbox.operation_under_way;
    ALTER TABLE outbox.operation   ALTER COLUMN topic TYPE text COLLATE "default", ALTER COLUMN kind TYPE text COLLATE "default";
    CREATE UNIQUE INDEX operation_under_way ON outbox.operation (topic, kind, md5(selection::text)) WHERE finished_at IS NULL;
    EXECUTE 'CREATE VIEW outbox.status AS ' || definition;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.status TO outbox_relay;
    END IF;
END $$;
