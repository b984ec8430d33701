-- Which log this is, and where it is kept. A copy of a database has its log's name until it is adopted as a log of its
-- own (`quantagent db adopt`): then the first row, which the first seal continues, is the parent of the second.

-- `after_seal` is the last seal that a log has in common with its parent.
ALTER TABLE quantagent.log_identity
    ADD COLUMN parent uuid UNIQUE REFERENCES quantagent.log_identity,
    ADD COLUMN after_seal bigint NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX log_identity_root_idx ON quantagent.log_identity ((true)) WHERE parent IS NULL;

-- In which databases a log was kept, the present one last: the server's system identifier and the database's oid.
CREATE TABLE quantagent.log_databases (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id uuid NOT NULL,
    database text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO quantagent.log_databases (log_id, database)
SELECT log_id, (SELECT system_identifier FROM pg_control_system())
    || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
FROM quantagent.log_identity WHERE EXISTS (SELECT FROM quantagent.seals);
