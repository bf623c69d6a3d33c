CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.orders (
    id       text    PRIMARY KEY,
    account  text    NOT NULL,
    product  text    NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    cents    bigint  NOT NULL CHECK (cents > 0),
    status   text    NOT NULL CHECK (status IN ('placed', 'paid', 'cancelled', 'refunded'))
);

-- What each customer has paid. The number of entries is the position of the
-- latest one, so that whoever reads the ledger's events can see a gap.
CREATE TABLE IF NOT EXISTS shop.accounts (
    id      text   PRIMARY KEY,
    balance bigint NOT NULL DEFAULT 0,
    entries bigint NOT NULL DEFAULT 0
);
