-- Market data. It comes from outside, so it cannot be rebuilt from the log.

-- Times are UTC instants; a bar is knowable only at closed_at. A later revision of a bar stands beside the earlier one.
CREATE TABLE quantagent.bars (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz NOT NULL CHECK (closed_at > opened_at),
    open numeric NOT NULL CHECK (open > 0),
    high numeric NOT NULL CHECK (high >= greatest(open, low, close)),
    low numeric NOT NULL CHECK (low > 0 AND low <= least(open, close)),
    close numeric NOT NULL CHECK (close > 0),
    volume numeric NOT NULL CHECK (volume >= 0),
    revision integer NOT NULL DEFAULT 1 CHECK (revision > 0),
    learned_at timestamptz NOT NULL CHECK (learned_at >= closed_at),
    source text NOT NULL,
    PRIMARY KEY (symbol, timeframe, opened_at, revision)
);

CREATE VIEW quantagent.current_bars AS
SELECT DISTINCT ON (symbol, timeframe, opened_at)
    symbol, timeframe, opened_at, closed_at, open, high, low, close, volume, learned_at, source
FROM quantagent.bars
ORDER BY symbol, timeframe, opened_at, revision DESC;

-- One row per content: importing the same bars again is the same import. The digest is that of the accepted bars'
-- canonical lines and the refused rows.
CREATE TABLE quantagent.bar_imports (
    import_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol text NOT NULL,
    timeframe text NOT NULL,
    source text NOT NULL,
    actor text NOT NULL,
    learned_at timestamptz NOT NULL,
    digest text NOT NULL,
    rows integer NOT NULL,
    refused integer NOT NULL,
    UNIQUE (symbol, timeframe, digest)
);

CREATE TABLE quantagent.refused_bars (
    import_id bigint NOT NULL REFERENCES quantagent.bar_imports,
    row_number integer NOT NULL,
    line text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (import_id, row_number)
);

-- Symbols that are not built in. Not history: a run keeps its own snapshot of the instruments it used.
CREATE TABLE quantagent.instruments (
    symbol text PRIMARY KEY,
    quote text NOT NULL,
    price_decimals integer NOT NULL,
    quantity_step numeric NOT NULL,
    multiplier numeric NOT NULL,
    calendar text NOT NULL
);

CREATE FUNCTION quantagent.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: rows are added, never changed or removed', TG_TABLE_SCHEMA, TG_TABLE_NAME;
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.bars
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.bar_imports
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.refused_bars
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
