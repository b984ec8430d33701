-- What was known when. A bar is revised by a row beside it; every row is learned later than all before it, so that
-- "what was learned by then" gives the same rows for ever. The latest import tells how far that has come.

-- The same bars may be learned twice, when a correction is taken back.
ALTER TABLE quantagent.bar_imports DROP CONSTRAINT bar_imports_symbol_timeframe_digest_key;
CREATE INDEX bar_imports_digest_idx ON quantagent.bar_imports (symbol, timeframe, digest);
CREATE INDEX bar_imports_learned_at_idx ON quantagent.bar_imports (learned_at);

-- What a provider was asked for, and how many rows it had: a hole that nobody asked about is not the same as one that
-- nobody could fill.
CREATE TABLE quantagent.asked_bars (
    asked_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol text NOT NULL,
    timeframe text NOT NULL,
    provider text NOT NULL,
    start_at timestamptz NOT NULL,
    end_at timestamptz NOT NULL CHECK (end_at > start_at),
    asked_at timestamptz NOT NULL,
    rows integer NOT NULL CHECK (rows >= 0)
);
CREATE INDEX asked_bars_series_idx ON quantagent.asked_bars (symbol, timeframe);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.asked_bars
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
