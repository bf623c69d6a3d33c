-- Two more things that an event's CHECK must not depend on: the encoding of the database,
-- and the search_path of the producer's session.
--
-- An encoding other than UTF8 has bytes that PostgreSQL cannot convert to UTF-8, such as
-- 81 in WIN1252. It stores them, and fails every statement of the relay that reads them.
-- Such an event is refused now. In a UTF8 database this costs the comparison of a name.
--
-- PL/pgSQL finds functions, operators, types and collations by the search_path of the
-- session, in which a service may have its own ones before pg_catalog. The names are
-- qualified, because SET search_path costs more than a microsecond in each call.

CREATE OR REPLACE FUNCTION outbox.attributes_are_valid(attributes jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE WHEN pg_catalog.jsonb_typeof(attributes) OPERATOR(pg_catalog.<>) 'object' THEN false ELSE (
        SELECT pg_catalog.count(*) FILTER (WHERE a.key OPERATOR(pg_catalog.<>) 'traceparent') OPERATOR(pg_catalog.<=) 6
           AND coalesce(pg_catalog.bool_and(
                   pg_catalog.jsonb_typeof(a.value) OPERATOR(pg_catalog.=) 'string'
                   AND a.value OPERATOR(pg_catalog.<>) '""'::pg_catalog.jsonb
                   AND a.key OPERATOR(pg_catalog.~) '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$'
                   AND pg_catalog.length(a.key) OPERATOR(pg_catalog.<=) 256
                   AND a.key OPERATOR(pg_catalog.!~*) '^(aws|amazon)[.]'
                   AND a.key OPERATOR(pg_catalog.<>) ALL ('{event_id,event_type,content_type}'::pg_catalog.text[])
                   AND (a.value OPERATOR(pg_catalog.#>>) '{}') COLLATE pg_catalog."C" OPERATOR(pg_catalog.!~) E'[\\u0001-\\u001f\\ufffe\\uffff]'), true)
        FROM pg_catalog.jsonb_each(attributes) AS a) END;
END $$;

-- True, or an error of class check_violation that names the broken rule in the place of
-- the constraint. The first part is all that an event without a fault costs. The second
-- sets search_path instead of qualifying names: the error that follows takes that back.
CREATE OR REPLACE FUNCTION outbox.event_is_valid(topic text, key text, type text, content_type text,
                                                 payload text, created_at timestamptz, attributes jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    rule   pg_catalog.text;
    reason pg_catalog.text;
    part   pg_catalog.text;
BEGIN
    IF topic OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(topic) OPERATOR(pg_catalog.<=) 256
       AND pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 1024
       AND type OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 256
       AND type COLLATE pg_catalog."C" OPERATOR(pg_catalog.!~) E'[\\u0001-\\u001f\\ufffe\\uffff]'
       AND (content_type OPERATOR(pg_catalog.=) 'application/json'
            OR content_type OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(content_type) OPERATOR(pg_catalog.<=) 256
               AND content_type COLLATE pg_catalog."C" OPERATOR(pg_catalog.!~) E'[\\u0001-\\u001f\\ufffe\\uffff]')
       AND payload OPERATOR(pg_catalog.<>) ''
       AND created_at OPERATOR(pg_catalog.>) '1970-01-01 00:00Z' AND created_at OPERATOR(pg_catalog.<) '2270-01-01 00:00Z'
       AND (attributes OPERATOR(pg_catalog.=) '{}' OR outbox.attributes_are_valid(attributes)) THEN
        IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'UTF8' THEN
            RETURN true;
        END IF;
        IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'SQL_ASCII' THEN
            RETURN true; -- it keeps bytes without a meaning: the relay looks at them
        END IF;
        BEGIN
            RETURN pg_catalog.octet_length(pg_catalog.convert_to(
                pg_catalog.concat(topic, key, type, content_type, payload, attributes), 'UTF8')) OPERATOR(pg_catalog.>) 0;
        EXCEPTION
        WHEN untranslatable_character OR character_not_in_repertoire THEN
            NULL; -- which column has it is found below
        WHEN undefined_function THEN
            RETURN true; -- no conversion exists: the relay refuses to work in such a database
        END;
    END IF;

    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
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
    WHEN type COLLATE "C" ~ E'[\\u0001-\\u001f\\ufffe\\uffff]' THEN
        rule   := 'event_type_has_valid_characters';
        reason := substring(type COLLATE "C" FROM E'[\\u0001-\\u001f\\ufffe\\uffff]');
        reason := format('type has U+%s at byte %s.', lpad(upper(to_hex(ascii(reason))), 4, '0'),
                         octet_length(split_part(type, reason, 1)));
    ELSE
        FOREACH part IN ARRAY ARRAY['attributes', 'content_type', 'key', 'payload', 'topic', 'type'] LOOP
            BEGIN
                PERFORM convert_to(CASE part WHEN 'attributes' THEN attributes::text WHEN 'content_type' THEN content_type
                                             WHEN 'key' THEN key WHEN 'payload' THEN payload WHEN 'topic' THEN topic ELSE type END, 'UTF8');
            EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
                rule   := CASE part WHEN 'attributes' THEN 'event_attributes_are_valid' ELSE format('event_%s_has_valid_characters', part) END;
                reason := format('%s: %s.', part, SQLERRM);
                EXIT;
            END;
        END LOOP;
    END CASE;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation', SCHEMA = 'outbox', TABLE = 'event', CONSTRAINT = rule,
        MESSAGE = format('new row for relation "event" violates check constraint "%s"', rule),
        DETAIL  = coalesce(reason, 'payload is empty.'),
        HINT    = 'schema/README.md of outbox-relay lists the rules.';
END $$;

---- create above / drop below ----

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

CREATE OR REPLACE FUNCTION outbox.event_is_valid(topic text, key text, type text, content_type text,
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
