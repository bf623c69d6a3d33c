-- The attempt that has an operation in hand. Another history of the database has another one
-- there, or none: so an attempt sees that the record is not the one that it goes on from.
ALTER TABLE outbox.operation ADD COLUMN holder uuid;

-- Where schema/roles.sql has been run, the relay's role goes on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT UPDATE (holder) ON outbox.operation TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

ALTER TABLE outbox.operation DROP COLUMN holder;
