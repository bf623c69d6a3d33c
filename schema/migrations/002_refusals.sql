-- Refusals of destinations, and dead letters.

-- The key goes along into the dead letters, so that events of a key can be held
-- back behind one of theirs without reading outbox.event.
ALTER TABLE outbox.dead_letter ADD COLUMN key text NOT NULL DEFAULT '';
CREATE INDEX dead_letter_key ON outbox.dead_letter (topic, key) WHERE key <> '';

-- A lane that waits for the retry of what its destination refuses. Such a claim does
-- not count towards its topic's share, or a few events that fail by themselves would
-- keep all others of the topic waiting.
ALTER TABLE outbox.lane ADD COLUMN retrying boolean NOT NULL DEFAULT false;

-- Pending events that their destination has refused one by one, while it accepted others. A
-- retry belongs to Temporal and ends with its run; this table has the time of the first refusal
-- over all runs, so that the relay can give an event up. Rows are few: only refused events have
-- one, until they are published or dead.
CREATE TABLE outbox.refusal (
    topic    text        NOT NULL,
    lane     smallint    NOT NULL,
    id       bigint      NOT NULL,
    replay   bigint      NOT NULL DEFAULT 0,
    code     text        NOT NULL, -- of the last refusal
    message  text        NOT NULL,
    attempts integer     NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, lane, id, replay)
);

-- Where schema/roles.sql has been run, the relay's role goes on without running it
-- again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.refusal TO outbox_relay;
    END IF;
END $$;

-- A pending event that was refused shows why.
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

---- create above / drop below ----

CREATE OR REPLACE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            ELSE 'published' END AS state,
       coalesce(p.replay, d.replay) AS replay,
       d.code, d.message, d.attempts, d.dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id) = (e.topic, e.lane, e.id)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id) = (e.topic, e.lane, e.id);
DROP TABLE outbox.refusal;
ALTER TABLE outbox.lane DROP COLUMN retrying;
ALTER TABLE outbox.dead_letter DROP COLUMN key;
