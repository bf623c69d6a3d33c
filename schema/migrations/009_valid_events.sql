-- One CHECK instead of six, and rules for the time and the characters of an event.
--
-- PostgreSQL plans every CHECK anew in every INSERT, and tries to inline an SQL
-- function each time. One call of a PL/pgSQL function costs less than one of the six
-- CHECKs did.

-- The same rules as before, and one more: a value has no control character and neither
-- U+FFFE nor U+FFFF. SNS accepts a tab in an attribute and then does not deliver the
-- message to a queue (github.com/aws/aws-sdk-java-v2/issues/5828).
CREATE OR REPLACE FUNCTION outbox.attributes_are_valid(attributes jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE WHEN jsonb_typeof(attributes) <> 'object' THEN false ELSE (
        SELECT count(*) FILTER (WHERE a.key <> 'traceparent') <= 6
           AND coalesce(bool_and(
                   jsonb_typeof(a.value) = 'string'
                   AND a.value <> '""'::jsonb
                   AND a.key ~ '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$'
                   AND length(a.key) <= 256
                   AND a.key !~* '^(aws|amazon)[.]'
                   AND a.key NOT IN ('event_id', 'event_type', 'content_type')
                   AND (a.value #>> '{}') COLLATE "C" !~ E'[\\u0001-\\u001f\\ufffe\\uffff]'), true)
        FROM jsonb_each(attributes) AS a) END;
END $$;

-- True, or an error of class check_violation that names the broken rule in the place of
-- the constraint, as if each rule were a CHECK of its own. The first part is all that an
-- event without a fault costs.
--
-- created_at: databases and drivers write an unset time as -infinity or as the year 1, and
-- milliseconds taken for seconds as the year 50000. A day from 1970 to 2269 has a name of
-- eight digits as a partition, and a distance to now that a 64-bit number of nanoseconds
-- can hold.
CREATE FUNCTION outbox.event_is_valid(topic text, key text, type text, content_type text,
                                      payload text, created_at timestamptz, attributes jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    rule   text;
    reason text;
BEGIN
    IF octet_length(topic) BETWEEN 1 AND 256
       AND octet_length(key) <= 1024
       AND octet_length(type) BETWEEN 1 AND 256
       AND type COLLATE "C" !~ E'[\\u0001-\\u001f\\ufffe\\uffff]'
       AND octet_length(content_type) BETWEEN 1 AND 256
       AND (content_type = 'application/json' OR content_type COLLATE "C" !~ E'[\\u0001-\\u001f\\ufffe\\uffff]')
       AND payload <> ''
       AND created_at > '1970-01-01 00:00Z' AND created_at < '2270-01-01 00:00Z'
       AND (attributes = '{}' OR outbox.attributes_are_valid(attributes)) THEN
        RETURN true;
    END IF;

    CASE
    WHEN NOT (attributes = '{}' OR outbox.attributes_are_valid(attributes)) THEN
        rule := 'event_attributes_are_valid';
        IF jsonb_typeof(attributes) <> 'object' THEN
            reason := 'attributes is not a JSON object.';
        ELSE
            SELECT format('Attribute %s: ', to_json(left(a.key, 64))) || CASE
                       WHEN a.key IN ('event_id', 'event_type', 'content_type') THEN 'the name is used by the relay.'
                       WHEN a.key !~ '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$' OR length(a.key) > 256 OR a.key ~* '^(aws|amazon)[.]'
                            THEN 'AWS does not allow this name.'
                       WHEN jsonb_typeof(a.value) <> 'string' THEN 'the value is not a string.'
                       WHEN a.value = '""' THEN 'the value is empty.'
                       WHEN c.bad IS NOT NULL THEN
                            format('the value has U+%s at byte %s.', lpad(upper(to_hex(ascii(c.bad))), 4, '0'),
                                   octet_length(split_part(a.value #>> '{}', c.bad, 1)))
                   END
            INTO reason
            FROM jsonb_each(attributes) AS a
            CROSS JOIN LATERAL (SELECT substring((a.value #>> '{}') COLLATE "C" FROM E'[\\u0001-\\u001f\\ufffe\\uffff]') AS bad) AS c
            WHERE a.key IN ('event_id', 'event_type', 'content_type')
               OR a.key !~ '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$' OR length(a.key) > 256 OR a.key ~* '^(aws|amazon)[.]'
               OR jsonb_typeof(a.value) <> 'string' OR a.value = '""' OR c.bad IS NOT NULL
            ORDER BY a.key LIMIT 1;
            reason := coalesce(reason, 'There are more than six attributes beside traceparent.');
        END IF;
    WHEN octet_length(content_type) NOT BETWEEN 1 AND 256 THEN
        rule   := 'event_content_type_is_1_to_256_bytes';
        reason := format('content_type has %s bytes.', octet_length(content_type));
    WHEN content_type COLLATE "C" ~ E'[\\u0001-\\u001f\\ufffe\\uffff]' THEN
        rule   := 'event_content_type_has_valid_characters';
        reason := substring(content_type COLLATE "C" FROM E'[\\u0001-\\u001f\\ufffe\\uffff]');
        reason := format('content_type has U+%s at byte %s.', lpad(upper(to_hex(ascii(reason))), 4, '0'),
                         octet_length(split_part(content_type, reason, 1)));
    WHEN NOT (created_at > '1970-01-01 00:00Z' AND created_at < '2270-01-01 00:00Z') THEN
        rule   := 'event_created_at_is_from_1970_to_2269';
        reason := format('created_at is %s.', created_at);
    WHEN octet_length(key) > 1024 THEN
        rule   := 'event_key_is_at_most_1024_bytes';
        reason := format('key has %s bytes.', octet_length(key));
    WHEN payload = '' THEN
        rule   := 'event_payload_is_not_empty';
    WHEN octet_length(topic) NOT BETWEEN 1 AND 256 THEN
        rule   := 'event_topic_is_1_to_256_bytes';
        reason := format('topic has %s bytes.', octet_length(topic));
    WHEN octet_length(type) NOT BETWEEN 1 AND 256 THEN
        rule   := 'event_type_is_1_to_256_bytes';
        reason := format('type has %s bytes.', octet_length(type));
    ELSE
        rule   := 'event_type_has_valid_characters';
        reason := substring(type COLLATE "C" FROM E'[\\u0001-\\u001f\\ufffe\\uffff]');
        reason := format('type has U+%s at byte %s.', lpad(upper(to_hex(ascii(reason))), 4, '0'),
                         octet_length(split_part(type, reason, 1)));
    END CASE;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation', SCHEMA = 'outbox', TABLE = 'event', CONSTRAINT = rule,
        MESSAGE = format('new row for relation "event" violates check constraint "%s"', rule),
        DETAIL  = coalesce(reason, 'payload is empty.'),
        HINT    = 'schema/README.md of outbox-relay lists the rules.';
END $$;

-- A CHECK runs with the rights of the producer. Roles that may call the one function may
-- call the other, also where PUBLIC may call none.
DO $$
DECLARE granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT a.grantee
        FROM pg_proc p CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
        WHERE p.oid = 'outbox.attributes_are_valid(jsonb)'::regprocedure AND a.privilege_type = 'EXECUTE'
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION outbox.event_is_valid(text, text, text, text, text, timestamptz, jsonb) TO %s',
                       CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_producer') THEN
        GRANT EXECUTE ON FUNCTION outbox.attributes_are_valid(jsonb),
            outbox.event_is_valid(text, text, text, text, text, timestamptz, jsonb) TO outbox_producer;
    END IF;
END $$;

-- The rows that are there are not read, and stay as they are: NOT VALID. Producers wait
-- for this transaction, so it waits at most 50 ms for a transaction of theirs and not at
-- all for anything that uses a partition; the program then tries again.
SET LOCAL lock_timeout = '50ms';
LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
DO $$
DECLARE partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass ORDER BY inhrelid LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', partition);
    END LOOP;
END $$;
ALTER TABLE outbox.event
    ADD CONSTRAINT event_is_valid
        CHECK (outbox.event_is_valid(topic, key, type, content_type, payload, created_at, attributes)) NOT VALID,
    DROP CONSTRAINT event_topic_is_1_to_256_bytes,
    DROP CONSTRAINT event_key_is_at_most_1024_bytes,
    DROP CONSTRAINT event_type_is_1_to_256_bytes,
    DROP CONSTRAINT event_content_type_is_1_to_256_bytes,
    DROP CONSTRAINT event_payload_is_not_empty,
    DROP CONSTRAINT event_attributes_are_valid;

---- create above / drop below ----

SET LOCAL lock_timeout = '50ms';
ALTER TABLE outbox.event
    DROP CONSTRAINT event_is_valid,
    ADD CONSTRAINT event_topic_is_1_to_256_bytes        CHECK (octet_length(topic) BETWEEN 1 AND 256) NOT VALID,
    ADD CONSTRAINT event_key_is_at_most_1024_bytes      CHECK (octet_length(key) <= 1024) NOT VALID,
    ADD CONSTRAINT event_type_is_1_to_256_bytes         CHECK (octet_length(type) BETWEEN 1 AND 256) NOT VALID,
    ADD CONSTRAINT event_content_type_is_1_to_256_bytes CHECK (octet_length(content_type) BETWEEN 1 AND 256) NOT VALID,
    ADD CONSTRAINT event_payload_is_not_empty           CHECK (payload <> '') NOT VALID,
    ADD CONSTRAINT event_attributes_are_valid           CHECK (attributes = '{}' OR outbox.attributes_are_valid(attributes)) NOT VALID;
DROP FUNCTION outbox.event_is_valid(text, text, text, text, text, timestamptz, jsonb);
CREATE OR REPLACE FUNCTION outbox.attributes_are_valid(attributes jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(attributes) <> 'object' THEN false ELSE (
    SELECT count(*) FILTER (WHERE a.key <> 'traceparent') <= 6
       AND coalesce(bool_and(
               jsonb_typeof(a.value) = 'string'
               AND a.value <> '""'::jsonb
               AND a.key ~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$'
               AND length(a.key) <= 256
               AND a.key !~* '^(aws|amazon)\.'
               AND a.key NOT IN ('event_id', 'event_type', 'content_type')), true)
    FROM jsonb_each(attributes) AS a) END;
