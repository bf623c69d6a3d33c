CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.stock (
    product  text    PRIMARY KEY,
    quantity integer NOT NULL
);

-- Events that have had their effect. A row must outlive every repeat of its
-- event: the queue's retention, and however far back you replay.
CREATE TABLE IF NOT EXISTS shop.inventory_inbox (
    event_id     uuid        PRIMARY KEY,
    processed_at timestamptz NOT NULL DEFAULT now()
);
