-- Two roles with only the rights that they need. Run this file as the owner of the
-- database, after "starter migrate", as often as you like:
--
--     psql "$DATABASE_URL" -f schema/roles.sql
--
-- They cannot log in. Grant them to your own users:
--
--     GRANT outbox_producer TO my_service;
--     GRANT outbox_relay    TO my_relay;

DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['outbox_producer', 'outbox_relay'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            -- unique_violation: another session created it in this very moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END $$;

-- A producer can only insert events. It cannot read, delete, or choose id or
-- created_at (with a right on the whole table, COPY could set an id that collides),
-- and it cannot write to a partition (which fires no trigger, so the relay would
-- never publish the event).
GRANT USAGE ON SCHEMA outbox TO outbox_producer;
GRANT INSERT (event_id, topic, key, type, payload, content_type, attributes)
    ON outbox.event TO outbox_producer;

-- The relay reads events and never changes them.
GRANT USAGE ON SCHEMA outbox TO outbox_relay;
GRANT SELECT ON outbox.event, outbox.status TO outbox_relay;
GRANT SELECT, INSERT, DELETE ON outbox.pending, outbox.dead_letter, outbox.discarded TO outbox_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.lane, outbox.topic, outbox.refusal TO outbox_relay;
GRANT SELECT, UPDATE ON outbox.sample, outbox.round, outbox.share TO outbox_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.worker TO outbox_relay;
GRANT SELECT, DELETE ON outbox.dated TO outbox_relay;
-- The relay checks whether the sequence of ids is behind the events.
GRANT SELECT ON SEQUENCE outbox.event_id_seq TO outbox_relay;
-- An operation's operator, kind and reason are written once; its progress is updated.
GRANT SELECT, INSERT, UPDATE (workflow_id, done, marked, took, next_after, lanes_after, holder, finished_at, outcome) ON outbox.operation TO outbox_relay;

-- The relay writes receipts and never changes them, and records which topics keep them.
GRANT SELECT, INSERT ON outbox.receipt TO outbox_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.receipt_topic TO outbox_relay;

-- The relay makes the partitions of future days and drops expired ones, through
-- functions that run as the owner.
GRANT EXECUTE ON FUNCTION outbox.make_partition(date), outbox.drop_partition(date), outbox.caught(),
    outbox.delete_caught(date, bigint), outbox.make_receipt_partition(date), outbox.drop_receipt_partition(date),
    outbox.shrink_pending() TO outbox_relay;
-- An operation asks it before it takes lanes.
GRANT EXECUTE ON FUNCTION outbox.share_is_free(smallint) TO outbox_relay;
-- Workers of the previous version use it to decide when the low watermark advances.
GRANT EXECUTE ON FUNCTION outbox.mark_is_safe(timestamptz, xid8) TO outbox_relay;
