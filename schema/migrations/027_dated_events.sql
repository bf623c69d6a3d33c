-- A worker that reads events by their ids opens the partitions of the last days only. An event that its
-- producer dates otherwise is in another partition. This table lists such events, so that they are
-- found by their ids, too, or a later event of their key could come first.

-- Rows are of use until the id is final, and go away a day later.
CREATE TABLE outbox.dated (
    id          bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    topic       text        NOT NULL COLLATE "C",
    lane        smallint    NOT NULL,
    inserted_at timestamptz NOT NULL -- created_at is hours away
);
CREATE INDEX dated_id ON outbox.dated (id);
-- A publication of all tables lets no row be deleted that has no identity.
ALTER TABLE outbox.dated REPLICA IDENTITY FULL;

-- Producers do not wait for this: a function is replaced beside its callers.
CREATE OR REPLACE FUNCTION outbox.enqueue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
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
    IF EXISTS (SELECT FROM inserted WHERE created_at NOT BETWEEN now - interval '6 hours' AND now + interval '6 hours') THEN
        INSERT INTO outbox.dated (id, created_at, topic, lane, inserted_at)
        SELECT id, created_at, topic, lane, now FROM inserted
        WHERE created_at NOT BETWEEN now - interval '6 hours' AND now + interval '6 hours';
    END IF;
    RETURN NULL;
END $$;

-- Where schema/roles.sql has been run, the relay's role goes on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, DELETE ON outbox.dated TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

CREATE OR REPLACE FUNCTION outbox.enqueue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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
DROP TABLE outbox.dated;
