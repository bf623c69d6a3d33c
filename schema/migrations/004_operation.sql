-- The operations of operators, with their reasons: one row for each command that changes
-- data. The relay's workflows record their progress here, in the same transaction as the
-- change, so that an interrupted operation continues where it was.
CREATE TABLE outbox.operation (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    kind        text        NOT NULL, -- pause, resume, recover-now, recover-park, redrive, discard, replay
    topic       text        NOT NULL,
    by          text        NOT NULL,
    reason      text        NOT NULL,
    selection   jsonb       NOT NULL DEFAULT '{}', -- which events of the topic
    matched     bigint,                            -- so many were counted before it began
    done        bigint      NOT NULL DEFAULT 0,    -- so many were moved
    -- A replay takes events in the order of their ids. Those up to next_after are
    -- done; beyond it, each lane's up to its place in lanes_after.
    next_after  bigint      NOT NULL DEFAULT 0,
    lanes_after bigint[]    NOT NULL DEFAULT array_fill(0::bigint, ARRAY[16]),
    workflow_id text        NOT NULL DEFAULT '',
    finished_at timestamptz,                       -- null: under way
    outcome     text        NOT NULL DEFAULT ''    -- done, cancelled, or what went wrong
);
-- A second command with the same selection joins the operation under way.
CREATE UNIQUE INDEX operation_under_way ON outbox.operation (topic, kind, md5(selection::text)) WHERE finished_at IS NULL;

-- Dead letters that were dropped for good. They go with their event's partition.
CREATE TABLE outbox.discarded (
    topic      text        NOT NULL,
    lane       smallint    NOT NULL,
    id         bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    replay     bigint      NOT NULL,
    code       text        NOT NULL,
    message    text        NOT NULL,
    dead_at    timestamptz NOT NULL,
    operation  bigint      NOT NULL, -- outbox.operation.id
    PRIMARY KEY (topic, lane, id, replay)
);

-- An operation that waits for a lane keeps claims away from it until then. The reservation
-- expires, because the worker that made it may have died.
ALTER TABLE outbox.lane ADD COLUMN reserved_until timestamptz;

-- Until then an attempt that was followed by another before it had ended may still be
-- sending: it learns that it is not the holder any more when it renews, and falls silent
-- before the end of the lease that it had.
ALTER TABLE outbox.lane ADD COLUMN quiet_at timestamptz;

CREATE OR REPLACE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            WHEN x.id IS NOT NULL THEN 'discarded'
            ELSE 'published' END AS state,
       coalesce(p.replay, d.replay, x.replay) AS replay,
       coalesce(d.code, r.code, x.code) AS code, coalesce(d.message, r.message, x.message) AS message,
       coalesce(d.attempts, r.attempts) AS attempts, coalesce(d.dead_at, x.dead_at) AS dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.discarded x   ON (x.topic, x.lane, x.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.refusal r     ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay);

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, INSERT, UPDATE (workflow_id, done, next_after, lanes_after, finished_at, outcome) ON outbox.operation TO outbox_relay;
        GRANT SELECT, INSERT, DELETE ON outbox.discarded TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

CREATE OR REPLACE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            ELSE 'published' END AS state,
       coalesce(p.replay, d.replay) AS replay,
       coalesce(d.code, r.code) AS code, coalesce(d.message, r.message) AS message,
       coalesce(d.attempts, r.attempts) AS attempts, d.dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.refusal r     ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay);
ALTER TABLE outbox.lane DROP COLUMN reserved_until, DROP COLUMN quiet_at;
DROP TABLE outbox.discarded, outbox.operation;
