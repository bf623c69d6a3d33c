-- The trigger that enqueues an event checks it, instead of a CHECK of the table.
--
-- PostgreSQL plans a CHECK anew in every INSERT, and calls event_is_valid for every row of
-- a COPY. The statement below is planned once in a session, and most events pass its own
-- conditions without a call. It runs as the owner, so a producer needs no right on a
-- function. A row that the trigger does not see (written to a partition, or by a session
-- that is a replica) is not checked and not enqueued.
CREATE OR REPLACE FUNCTION outbox.enqueue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The rules are those of event_is_valid, which says true or names the broken one. What is
    -- neither valid nor refused has no bytes, and fails the statement.
    INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
    SELECT topic, lane, id, created_at, CASE
        WHEN (attributes = '{}' AND content_type = 'application/json'
              AND octet_length(topic) BETWEEN 1 AND 256
              AND octet_length(key) <= 1024
              AND octet_length(type) BETWEEN 1 AND 256
              AND type COLLATE "C" !~ E'[\\u0001-\\u001f\\ufffe\\uffff]'
              AND payload <> ''
              AND created_at > '1970-01-01 00:00Z' AND created_at < '2270-01-01 00:00Z'
              AND getdatabaseencoding() = 'UTF8')
             OR outbox.event_is_valid(topic, key, type, content_type, payload, created_at, attributes)
        THEN octet_length(payload) + octet_length(type) + octet_length(content_type)
             + CASE attributes WHEN '{}' THEN 0 ELSE octet_length(attributes::text) END
        END
    FROM inserted;
    RETURN NULL;
END $$;

SET LOCAL lock_timeout = '50ms';
-- A partition that is detached may be attached again, and would bring its CHECK back. This
-- comes before the lock that producers wait for: an archive of a detached day may take hours.
-- Tables of another name, owner or parent stay as they are.
DO $$
DECLARE detached regclass;
BEGIN
    FOR detached IN SELECT c.oid FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
                    WHERE c.relnamespace = 'outbox'::regnamespace AND k.conname = 'event_is_valid'
                      AND c.relname ~ '^event_[0-9]{8}$' AND NOT c.relispartition
                      AND c.relowner = (SELECT relowner FROM pg_class WHERE oid = 'outbox.event'::regclass) LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT event_is_valid', detached);
    END LOOP;
END $$;
LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
DO $$
DECLARE partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass ORDER BY inhrelid LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', partition);
    END LOOP;
END $$;
ALTER TABLE outbox.event DROP CONSTRAINT IF EXISTS event_is_valid;

---- create above / drop below ----

-- A CHECK runs with the rights of the producer.
DO $$
DECLARE granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT a.grantee
        FROM (SELECT relacl AS acl FROM pg_class WHERE oid = 'outbox.event'::regclass
              UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = 'outbox.event'::regclass) acls
        CROSS JOIN aclexplode(acls.acl) AS a
        WHERE a.privilege_type = 'INSERT' LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION outbox.attributes_are_valid(jsonb),
                            outbox.event_is_valid(text, text, text, text, text, timestamptz, jsonb) TO %s',
                       CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END);
    END LOOP;
END $$;
SET LOCAL lock_timeout = '50ms';
ALTER TABLE outbox.event
    ADD CONSTRAINT event_is_valid
        CHECK (outbox.event_is_valid(topic, key, type, content_type, payload, created_at, attributes)) NOT VALID;
CREATE OR REPLACE FUNCTION outbox.enqueue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
    SELECT topic, lane, id, created_at,
           octet_length(payload) + octet_length(type) + octet_length(content_type)
           + CASE attributes WHEN '{}' THEN 0 ELSE octet_length(attributes::text) END
    FROM inserted;
    RETURN NULL;
END $$;
