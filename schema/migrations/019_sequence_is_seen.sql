-- The relay looks whether the sequence of ids is behind the events, as in a copy that logical
-- replication made: it copies rows and no sequence. Where schema/roles.sql has been run, the
-- relay's role goes on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON SEQUENCE outbox.event_id_seq TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        REVOKE SELECT ON SEQUENCE outbox.event_id_seq FROM outbox_relay;
    END IF;
END $$;
