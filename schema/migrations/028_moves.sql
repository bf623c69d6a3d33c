-- A redrive, replay or discard of a worker of the version before moves events in lanes that look free,
-- although a worker holds their share. That worker reads a lane that flows by new ids only, so it found the
-- moved events up to 15 seconds later, behind later events of their keys.

-- The last statement of a move ends the reservation of its lanes. If a worker holds or takes the share of
-- a lane that is not apart, the lane stays reserved for three seconds more. The holder then sets it apart,
-- within a second and after its events in hand are settled, and later reads all that is pending in it.
-- Workers that know shares move nothing in such lanes.
CREATE FUNCTION outbox.keep_share_from_moves() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    IF NOT outbox.share_is_free(NEW.lane) THEN
        NEW.reserved_until := clock_timestamp() + interval '3 seconds';
    END IF;
    RETURN NEW;
END $$;

-- Producers do not use this table.
SET LOCAL lock_timeout = '50ms';
CREATE TRIGGER keep_share_from_moves BEFORE UPDATE OF reserved_until ON outbox.lane
FOR EACH ROW WHEN (NEW.reserved_until IS NULL AND NEW.claim_id IS NULL AND OLD.claim_id IS NULL AND NOT NEW.apart)
EXECUTE FUNCTION outbox.keep_share_from_moves();

---- create above / drop below ----

SET LOCAL lock_timeout = '50ms';
DROP TRIGGER keep_share_from_moves ON outbox.lane;
DROP FUNCTION outbox.keep_share_from_moves();
