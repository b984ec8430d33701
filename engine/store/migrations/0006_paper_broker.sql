-- The paper broker's own record (engine/broker/blotter.py): what it was told and did, by run and client order id. Written in
-- transactions of its own and never derived from the log, so that the two can be held against each other. Without
-- foreign keys: where a row has been removed, the next fill is still written down, and the difference is what is told.

CREATE TABLE quantagent.paper_accounts (
    run_id text PRIMARY KEY,
    currency text NOT NULL,
    cash numeric NOT NULL CHECK (cash >= 0 AND cash < 'Infinity')
);

CREATE TABLE quantagent.paper_orders (
    run_id text NOT NULL,
    client_order_id text NOT NULL,
    at timestamptz NOT NULL,
    symbol text NOT NULL,
    side text NOT NULL CHECK (side IN ('BUY', 'SELL')),
    quantity numeric NOT NULL CHECK (quantity > 0 AND quantity < 'Infinity'),
    -- Shared by orders of which one takes from the other what it fills; empty for an order on its own.
    pair text NOT NULL,
    payload text NOT NULL,
    PRIMARY KEY (run_id, client_order_id)
);

-- `n` counts the fills of one order from 1. Money is in the account's currency.
CREATE TABLE quantagent.paper_executions (
    run_id text NOT NULL,
    client_order_id text NOT NULL,
    n integer NOT NULL CHECK (n > 0),
    at timestamptz NOT NULL,
    symbol text NOT NULL,
    side text NOT NULL CHECK (side IN ('BUY', 'SELL')),
    quantity numeric NOT NULL CHECK (quantity > 0 AND quantity < 'Infinity'),
    price numeric NOT NULL CHECK (price > 0 AND price < 'Infinity'),
    notional numeric NOT NULL CHECK (notional >= 0 AND notional < 'Infinity'),
    commission numeric NOT NULL CHECK (commission >= 0 AND commission < 'Infinity'),
    payload text NOT NULL,
    PRIMARY KEY (run_id, client_order_id, n)
);

-- How an order ended that was not filled whole. An order without a row here works for as long as something is left.
CREATE TABLE quantagent.paper_endings (
    run_id text NOT NULL,
    client_order_id text NOT NULL,
    at timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('canceled', 'expired', 'rejected', 'replaced')),
    payload text NOT NULL,
    PRIMARY KEY (run_id, client_order_id)
);

-- Cash that moved without a fill, negative when it was paid.
CREATE TABLE quantagent.paper_cash (
    run_id text NOT NULL,
    at timestamptz NOT NULL,
    symbol text NOT NULL,
    reason text NOT NULL,
    amount numeric NOT NULL CHECK (amount > '-Infinity' AND amount < 'Infinity'),
    payload text NOT NULL,
    PRIMARY KEY (run_id, at, symbol, reason)
);

-- Up to which version of its account's control stream each slot of a run was told. Written before the broker hears of
-- the slot: one that is done again after a crash is told the same.
CREATE TABLE quantagent.paper_slots (
    run_id text NOT NULL,
    due_at timestamptz NOT NULL,
    control_version bigint NOT NULL CHECK (control_version >= 0),
    PRIMARY KEY (run_id, due_at)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.paper_accounts
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.paper_orders
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.paper_executions
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.paper_endings
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.paper_cash
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.paper_slots
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
