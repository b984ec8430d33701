-- Every question to a model (analysis/llm/call_log.py): recorded when it ended, whatever came of the analysis it was asked for,
-- because it cost money all the same. Written beside the log and never derived from it.

-- Requests and answers, each once, by the SHA-256 of their bytes: JSON with every other character than ASCII escaped, so
-- that any text a model writes can be stored and comes back byte for byte.
CREATE TABLE quantagent.llm_bodies (
    sha256 text PRIMARY KEY,
    body text NOT NULL,
    CHECK (sha256 = encode(sha256(convert_to(body, 'UTF8')), 'hex'))
);

-- `version` is the one that the analysis's event will have in its stream. `response` is empty where no answer came.
CREATE TABLE quantagent.llm_calls (
    call_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    analysis_id text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    preset text NOT NULL,
    variant text NOT NULL,
    asked_at timestamptz NOT NULL,
    node text NOT NULL,
    seq integer NOT NULL CHECK (seq > 0),
    attempt integer NOT NULL CHECK (attempt > 0),
    model text NOT NULL,
    outcome text NOT NULL,
    request text NOT NULL REFERENCES quantagent.llm_bodies,
    response text NOT NULL,
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    -- US dollars.
    cost numeric NOT NULL CHECK (cost >= 0 AND cost < 'Infinity'),
    latency_ms bigint NOT NULL CHECK (latency_ms >= 0),
    answered_by text NOT NULL,
    system_fingerprint text NOT NULL
);
CREATE INDEX llm_calls_analysis_idx ON quantagent.llm_calls (analysis_id);
CREATE INDEX llm_calls_preset_idx ON quantagent.llm_calls (preset, asked_at);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.llm_bodies
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.llm_calls
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
