-- A share is a lane number of all topics together. A worker holds shares and publishes all topics
-- in them, except lanes that are apart: these belong to the claims of their topic, as before.
-- Workers of the version before know no shares. The trigger below keeps their claims away.

-- A worker holds a share while leased_until is not past. Renewing extends the rows of one worker
-- twice a second, however many topics there are.
CREATE TABLE outbox.share (
    lane         smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    worker       uuid,        -- null: given back, or never taken; outbox.worker.id
    -- Database clock. -infinity: the lease ended, and claims have taken lanes since. The worker may
    -- not renew it any more, also if the clock is set back.
    leased_until timestamptz,
    renewed_at   timestamptz,
    -- Lanes that are not apart may have claims from before the share was taken. Later they cannot
    -- have any, and are not read to find out.
    mixed        boolean NOT NULL DEFAULT true
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
INSERT INTO outbox.share (lane) SELECT generate_series(0, 15);

-- The worker processes that can hold shares, one row each. Rows of the dead go away after a day.
CREATE TABLE outbox.worker (
    id         uuid        PRIMARY KEY,
    name       text        NOT NULL,
    seen_at    timestamptz NOT NULL,
    seated     boolean     NOT NULL, -- an activity of Temporal lets it hold shares
    offered_at timestamptz           -- when Temporal was last asked for such an activity
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- Reports whether claims may take lanes of a share that are not apart. If they may, no worker can
-- take or renew the share before the transaction ends. It waits for no lock, because its caller has
-- locked lanes: while a worker is taking or renewing the share, it says no.
CREATE FUNCTION outbox.share_is_free(number smallint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    PERFORM FROM outbox.share
    WHERE lane = number AND (worker IS NULL OR leased_until = '-infinity')
    FOR SHARE SKIP LOCKED;
    IF FOUND THEN
        RETURN true;
    END IF;
    -- The lease of a worker that did not give the share back may have ended. It ends for good.
    UPDATE outbox.share SET leased_until = '-infinity'
    WHERE lane = (SELECT lane FROM outbox.share
                  WHERE lane = number AND worker IS NOT NULL AND leased_until < now()
                  FOR UPDATE SKIP LOCKED);
    -- Without its row, no worker can hold the share.
    RETURN FOUND OR NOT EXISTS (SELECT FROM outbox.share WHERE lane = number);
END $$;
REVOKE ALL ON FUNCTION outbox.share_is_free(smallint) FROM PUBLIC;

-- A claim of any version does not get a lane that belongs to the holder of its share. A claim takes
-- hundreds of lanes, so the first one locks all shares that are free, and the setting
-- outbox.free_shares names them until the transaction ends. The trigger then is not called for them.
CREATE FUNCTION outbox.keep_share() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    PERFORM FROM outbox.share WHERE lane = NEW.lane AND worker IS NOT NULL AND leased_until >= now();
    IF FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('outbox.free_shares', ',' || string_agg(free.lane::text, ',') || ',', true)
    FROM (SELECT lane FROM outbox.share
          WHERE worker IS NULL OR leased_until = '-infinity'
          FOR SHARE SKIP LOCKED) free;
    IF current_setting('outbox.free_shares') LIKE '%,' || NEW.lane || ',%' OR outbox.share_is_free(NEW.lane) THEN
        RETURN NEW;
    END IF;
    RETURN NULL;
END $$;

-- Producers do not use this table. The columns are constant, so that adding them rewrites nothing.
SET LOCAL lock_timeout = '50ms';
ALTER TABLE outbox.lane
    ADD COLUMN apart       boolean NOT NULL DEFAULT false, -- it belongs to claims, also while a worker holds the share
    ADD COLUMN apart_cause text    NOT NULL DEFAULT '';
-- A claim changes none of these columns, so it still updates its lanes in place.
CREATE INDEX lane_apart    ON outbox.lane (lane) WHERE apart;
CREATE INDEX lane_reserved ON outbox.lane (lane) WHERE reserved_until IS NOT NULL;
CREATE TRIGGER keep_share BEFORE UPDATE OF claim_id ON outbox.lane
FOR EACH ROW WHEN (NEW.claim_id IS NOT NULL AND OLD.claim_id IS NULL AND NOT NEW.apart
                   AND current_setting('outbox.free_shares', true) LIKE '%,' || NEW.lane || ',%' IS NOT TRUE)
EXECUTE FUNCTION outbox.keep_share();

-- Where schema/roles.sql has been run, the relay's role goes on without running it again.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, UPDATE ON outbox.share TO outbox_relay;
        GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.worker TO outbox_relay;
        GRANT EXECUTE ON FUNCTION outbox.share_is_free(smallint) TO outbox_relay;
    END IF;
END $$;

---- create above / drop below ----

SET LOCAL lock_timeout = '50ms';
DROP TRIGGER keep_share ON outbox.lane;
DROP FUNCTION outbox.keep_share(), outbox.share_is_free(smallint);
DROP INDEX outbox.lane_apart, outbox.lane_reserved;
ALTER TABLE outbox.lane DROP COLUMN apart, DROP COLUMN apart_cause;
DROP TABLE outbox.worker, outbox.share;
