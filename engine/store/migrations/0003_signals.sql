-- Rows of imported signal files, addressed by the file's content: the log holds one event per file.
CREATE TABLE quantagent.imported_signals (
    digest text NOT NULL,
    row_number integer NOT NULL,
    symbol text NOT NULL,
    at timestamptz NOT NULL,
    decision text NOT NULL CHECK (decision IN ('LONG', 'SHORT', 'FLAT', 'HOLD')),
    confidence numeric NOT NULL CHECK (confidence >= 0 AND confidence <= 1),
    PRIMARY KEY (digest, symbol, at)
);
