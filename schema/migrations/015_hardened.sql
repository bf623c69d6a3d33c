-- For databases in which PUBLIC may execute nothing by default, and for those with row
-- level security.

-- Where schema/roles.sql has been run, the roles go on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_producer') THEN
        GRANT EXECUTE ON FUNCTION outbox.attributes_are_valid(jsonb) TO outbox_producer;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT EXECUTE ON FUNCTION outbox.mark_is_safe(timestamptz, xid8) TO outbox_relay;
    END IF;
END $$;

-- FORCE ROW LEVEL SECURITY hides rows from the owner, too. These functions run as the
-- owner and decide by what they see: retention dropped a partition whose event was
-- pending. Now they fail instead.
ALTER FUNCTION outbox.make_partition(date) SET row_security = off;
ALTER FUNCTION outbox.drop_partition(date) SET row_security = off;
ALTER FUNCTION outbox.caught() SET row_security = off;

---- create above / drop below ----

ALTER FUNCTION outbox.make_partition(date) RESET row_security;
ALTER FUNCTION outbox.drop_partition(date) RESET row_security;
ALTER FUNCTION outbox.caught() RESET row_security;
