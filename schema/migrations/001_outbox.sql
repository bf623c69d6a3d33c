-- The tables of outbox-relay. Sections 4 and 5 of the design give the reasons;
-- schema/README.md is the guide for producers.

-- An attribute becomes a message attribute of SNS or SQS. This function refuses events that
-- AWS would reject or silently discard, while the producer can still roll back:
-- names of A-Z a-z 0-9 _ - . up to 256 characters, not beginning with "AWS." or
-- "Amazon.", no dot at either end and no two in a row; values that are non-empty
-- strings; at most six beside traceparent, because the relay adds four and a
-- raw-delivery subscription discards a message with more than ten.
CREATE FUNCTION outbox.attributes_are_valid(attributes jsonb) RETURNS boolean
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

-- Insert-only. Nothing ever updates a row; retention drops whole partitions.
CREATE TABLE outbox.event (
    -- Given by the sequence, so an order of inserts, not of commits.
    id           bigint      GENERATED ALWAYS AS IDENTITY,
    -- The identity that consumers deduplicate by. It cannot be declared unique:
    -- a unique index of a partitioned table must contain the partition key.
    event_id     uuid        NOT NULL DEFAULT gen_random_uuid(),
    topic        text        NOT NULL,
    key          text        NOT NULL DEFAULT '',
    -- All events of a (topic, key) share a lane; events without a key spread.
    lane         smallint    NOT NULL GENERATED ALWAYS AS ((
                     hashtextextended(CASE key WHEN '' THEN event_id::text ELSE key END,
                                      hashtextextended(topic, 0)) & 15)::smallint) STORED,
    type         text        NOT NULL,
    payload      text        NOT NULL,
    content_type text        NOT NULL DEFAULT 'application/json',
    attributes   jsonb       NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, created_at),
    CONSTRAINT event_topic_is_1_to_256_bytes        CHECK (octet_length(topic) BETWEEN 1 AND 256),
    CONSTRAINT event_key_is_at_most_1024_bytes      CHECK (octet_length(key) <= 1024),
    CONSTRAINT event_type_is_1_to_256_bytes         CHECK (octet_length(type) BETWEEN 1 AND 256),
    CONSTRAINT event_content_type_is_1_to_256_bytes CHECK (octet_length(content_type) BETWEEN 1 AND 256),
    CONSTRAINT event_payload_is_not_empty           CHECK (payload <> ''),
    CONSTRAINT event_attributes_are_valid           CHECK (attributes = '{}' OR outbox.attributes_are_valid(attributes))
) PARTITION BY RANGE (created_at);

-- Receives the events of days without a partition, so that a business transaction never
-- fails because a partition is missing.
CREATE TABLE outbox.event_default PARTITION OF outbox.event DEFAULT;

-- A row here is an event still to be published. Narrow, and the only table whose
-- rows come and go with the traffic, so it is vacuumed often and by count.
CREATE TABLE outbox.pending (
    topic      text        NOT NULL,
    lane       smallint    NOT NULL,
    id         bigint      NOT NULL,
    created_at timestamptz NOT NULL, -- with id, the key of the event
    bytes      integer     NOT NULL, -- payload, attributes and type
    replay     bigint      NOT NULL DEFAULT 0, -- 0: first delivery
    PRIMARY KEY (topic, lane, id, replay)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 50000
);

-- Leases. Producers never touch this table: when the trigger inserted its rows,
-- producers waited for each other and deadlocked.
CREATE TABLE outbox.lane (
    topic        text        NOT NULL,
    lane         smallint    NOT NULL CHECK (lane BETWEEN 0 AND 15),
    claim_id     uuid,        -- survives retries of the activity
    holder       uuid,        -- one attempt of it; null until an attempt has begun
    leased_until timestamptz, -- database clock
    claimed_at   timestamptz, -- also after release: who was served longest ago goes first
    claimed_by   text,        -- workflow run and activity
    -- Scans of pending begin here. Only the sweep would find a pending event below it
    -- (of a transaction that committed late), after later events of its key. So seen_id
    -- becomes low_id only after every transaction has ended that was open when seen_id
    -- was noted, and two seconds have passed: a transaction may have drawn its id a
    -- moment before it shows in a snapshot.
    low_id       bigint      NOT NULL DEFAULT 0,
    seen_id      bigint      NOT NULL DEFAULT 0,
    seen_at      timestamptz NOT NULL DEFAULT '-infinity',
    seen_xid     xid8        NOT NULL DEFAULT '0',
    PRIMARY KEY (topic, lane)
) WITH (
    -- Every claim updates its lanes in place; half-empty pages keep that within
    -- a page and out of the index.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Pauses. An operator's, and apart from it recovery's own, which expires unless
-- renewed: a terminated recovery cannot pause a topic for ever, and a resume of
-- one kind never lifts the other.
CREATE TABLE outbox.topic (
    topic                 text PRIMARY KEY,
    paused_at             timestamptz,
    paused_by             text,
    pause_reason          text,
    recovery_paused_until timestamptz,
    recovery_workflow_id  text,
    CHECK ((paused_at IS NULL) = (paused_by IS NULL))
);

-- May what a lane has noted as settled become the place where its scans begin?
-- (An xid from the future is that of another cluster, from before a restore.)
CREATE FUNCTION outbox.mark_is_safe(seen_at timestamptz, seen_xid xid8) RETURNS boolean
LANGUAGE sql STABLE
RETURN seen_at < now() - interval '2 seconds'
       AND (seen_xid <= pg_snapshot_xmin(pg_current_snapshot())
            OR seen_xid > pg_snapshot_xmax(pg_current_snapshot()));

CREATE TABLE outbox.dead_letter (
    topic       text        NOT NULL,
    lane        smallint    NOT NULL,
    id          bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    bytes       integer     NOT NULL,
    replay      bigint      NOT NULL DEFAULT 0,
    code        text        NOT NULL,
    message     text        NOT NULL,
    attempts    integer     NOT NULL,
    dead_at     timestamptz NOT NULL DEFAULT now(),
    workflow_id text        NOT NULL,
    PRIMARY KEY (topic, lane, id, replay)
);

-- The trigger runs as the owner, so that a producer needs no right on pending.
CREATE FUNCTION outbox.enqueue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
    SELECT topic, lane, id, created_at,
           octet_length(payload) + octet_length(type) + octet_length(content_type)
           + CASE attributes WHEN '{}' THEN 0 ELSE octet_length(attributes::text) END
    FROM inserted;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION outbox.enqueue() FROM PUBLIC;

CREATE TRIGGER enqueue AFTER INSERT ON outbox.event
REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION outbox.enqueue();

-- Makes the partition of one UTC day; false if it is there already. It is made
-- apart and then attached, because CREATE TABLE ... PARTITION OF waits for every
-- open producer and makes all later ones wait behind it. Rows of that day that
-- the default partition has caught move into it first; they fire no trigger, so
-- they are not published again. The caller sees lock_not_available instead of a
-- wait when producers are in the way, and tries again.
CREATE FUNCTION outbox.make_partition(day date) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '50ms' SET timezone = 'UTC' AS $$
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
REVOKE ALL ON FUNCTION outbox.make_partition(date) FROM PUBLIC;

-- For people with psql. Filter by id or by created_at where you can: the table
-- behind it is partitioned by created_at and indexed by id.
CREATE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            ELSE 'published' END AS state,
       coalesce(p.replay, d.replay) AS replay,
       d.code, d.message, d.attempts, d.dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id) = (e.topic, e.lane, e.id);

---- create above / drop below ----

DROP VIEW outbox.status;
DROP TABLE outbox.event, outbox.pending, outbox.lane, outbox.topic, outbox.dead_letter;
DROP FUNCTION outbox.enqueue(), outbox.make_partition(date), outbox.attributes_are_valid(jsonb), outbox.mark_is_safe(timestamptz, xid8);
