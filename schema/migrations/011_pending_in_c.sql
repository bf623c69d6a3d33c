-- The key of pending in collation "C". It comes before the keys of the other tables: a
-- comparison of a column in "C" with one in the collation of the database is in "C", and
-- pending must have an index for it from the first such comparison on. The index is there
-- already, so that nothing is built or read while producers wait.
SET LOCAL lock_timeout = '50ms';
LOCK TABLE outbox.pending IN ACCESS EXCLUSIVE MODE;
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
    identity   CONSTANT "char"    := (SELECT relreplident FROM pg_class WHERE oid = 'outbox.pending'::regclass);
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW outbox.status %sAS SELECT %s', options, nothing);
    ALTER TABLE outbox.pending DROP CONSTRAINT pending_pkey;
    ALTER TABLE outbox.pending ALTER COLUMN topic TYPE text COLLATE "C";
    ALTER TABLE outbox.pending ADD CONSTRAINT pending_pkey PRIMARY KEY USING INDEX pending_in_c;
    IF identity = 'i' THEN -- it was that of an index, which is gone; a publication refuses deletes without one
        ALTER TABLE outbox.pending REPLICA IDENTITY USING INDEX pending_pkey;
    END IF;
    EXECUTE format('CREATE OR REPLACE VIEW outbox.status %sAS %s', options, definition);
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
