-- The last failure of a topic whose destination is broken, written by the attempts of its
-- recovery. It holds while the recovery's pause does: failing_since is forgotten when a pause
-- begins after another has expired, and an attempt is due until next_attempt_at at the latest.
-- Producers do not use this table, and the columns are empty, so that adding them rewrites nothing.
ALTER TABLE outbox.topic
    ADD COLUMN failure_code        text,
    ADD COLUMN failure_message     text,
    ADD COLUMN failure_destination text,
    ADD COLUMN failing_since       timestamptz,
    ADD COLUMN next_attempt_at     timestamptz;

-- Of a pending event, the view says what keeps its topic. A failure that no attempt has renewed
-- for minutes is of a worker that no longer has the recovery: one of an earlier version may.
--
-- A view that is replaced loses its options, security_invoker for one, so they are set again.
SELECT set_config('outbox.status_options', coalesce((SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = 'outbox.status'::regclass), ''), true);
CREATE OR REPLACE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            WHEN x.id IS NOT NULL THEN 'discarded'
            ELSE 'not pending' END AS state,
       coalesce(p.replay, d.replay, x.replay) AS replay,
       coalesce(d.code, r.code, x.code) AS code, coalesce(d.message, r.message, x.message) AS message,
       coalesce(d.attempts, r.attempts) AS attempts, coalesce(d.dead_at, x.dead_at) AS dead_at, d.workflow_id,
       t.recovery_workflow_id, f.failure_code, f.failure_message, f.failure_destination, f.failing_since, f.next_attempt_at
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id, p.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id, d.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.discarded x   ON (x.topic, x.lane, x.id, x.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.refusal r     ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay)
                              AND coalesce(r.created_at, p.created_at) = p.created_at
LEFT JOIN outbox.topic t       ON t.topic = p.topic AND t.recovery_paused_until > now()
LEFT JOIN outbox.topic f       ON f.topic = t.topic AND f.failing_since IS NOT NULL AND f.next_attempt_at > now() - interval '5 minutes';
DO $$ BEGIN
    IF current_setting('outbox.status_options') <> '' THEN
        EXECUTE format('ALTER VIEW outbox.status SET (%s)', current_setting('outbox.status_options'));
    END IF;
END $$;

---- create above / drop below ----

DROP VIEW outbox.status;
CREATE VIEW outbox.status AS
SELECT e.id, e.event_id, e.topic, e.key, e.lane, e.type, e.created_at,
       CASE WHEN p.id IS NOT NULL THEN 'pending'
            WHEN d.id IS NOT NULL THEN 'dead'
            WHEN x.id IS NOT NULL THEN 'discarded'
            ELSE 'not pending' END AS state,
       coalesce(p.replay, d.replay, x.replay) AS replay,
       coalesce(d.code, r.code, x.code) AS code, coalesce(d.message, r.message, x.message) AS message,
       coalesce(d.attempts, r.attempts) AS attempts, coalesce(d.dead_at, x.dead_at) AS dead_at, d.workflow_id
FROM outbox.event e
LEFT JOIN outbox.pending p     ON (p.topic, p.lane, p.id, p.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.dead_letter d ON (d.topic, d.lane, d.id, d.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.discarded x   ON (x.topic, x.lane, x.id, x.created_at) = (e.topic, e.lane, e.id, e.created_at)
LEFT JOIN outbox.refusal r     ON (r.topic, r.lane, r.id, r.replay) = (p.topic, p.lane, p.id, p.replay)
                              AND coalesce(r.created_at, p.created_at) = p.created_at;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.status TO outbox_relay;
    END IF;
END $$;
ALTER TABLE outbox.topic
    DROP COLUMN failure_code, DROP COLUMN failure_message, DROP COLUMN failure_destination,
    DROP COLUMN failing_since, DROP COLUMN next_attempt_at;
