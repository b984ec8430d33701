-- Who drives an account now. Liveness only: what happened is in the log.
CREATE TABLE quantagent.daemons (
    account text PRIMARY KEY,
    run_id text NOT NULL,
    instance text NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    market_at timestamptz,
    state text NOT NULL,
    stop_requested boolean NOT NULL DEFAULT false
);
