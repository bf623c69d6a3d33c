-- The key of pending in collation "C". It comes before the keys of the other tables: a
-- comparison of a column in "C" with one in the collation of the database is in "C", and
-- pending must have an index for it from the first such comparison on. The index is there
-- already, so that nothing is built or read while producers wait.
SET LOCAL lock_timeout = '50ms';
LOCK TABLE outbox.pending IN ACCESS EXCLUSIVE MODE;
DO $$
DECLARE
    definition CONSTANT text      := pg_get_viewdef('outbox.status'::regclass);
    options    CONSTANT text[]    := (SELECT reloptions FROM pg_class WHERE oid = 'outbox.status'::regclass);
    rights     CONSTANT aclitem[] := (SELECT coalesce(relacl, acldefault('r', relowner)) FROM pg_class WHERE oid = 'outbox.status'::regclass);
    identity   CONSTANT "char"    := (SELECT relreplident FROM pg_class WHERE oid = 'outbox.pending'::regclass);
    granted    record;
BEGIN
    DROP VIEW outbox.status;
    ALTER TABLE outbox.pending DROP CONSTRAINT pending_pkey;
    ALTER TABLE outbox.pending ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.pending ADD CONSTRAINT pending_pkey PRIMARY KEY USING INDEX pending_in_c;
    IF identity = 'i' THEN -- it was that of an index, which is gone; a publication refuses deletes without one
        ALTER TABLE outbox.pending REPLICA IDENTITY USING INDEX pending_pkey;
    END IF;
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
    ALTER TABLE outbox.pending DROP CONSTRAINT pending_pkey;
    ALTER TABLE outbox.pending ALTER COLUMN topic TYPE text COLLATE "default";
    ALTER TABLE outbox.pending ADD CONSTRAINT pending_pkey PRIMARY KEY (topic, lane, id, replay);
    EXECUTE 'CREATE VIEW outbox.status AS ' || definition;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.status TO outbox_relay;
    END IF;
END $$;
CREATE UNIQUE INDEX pending_in_c ON outbox.pending (topic COLLATE "C", lane, id, replay);
