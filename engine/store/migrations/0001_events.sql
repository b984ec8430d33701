-- The log, in the shape of the eventsourcing library's application recorder, so that its stock recorder can read it.
-- Created here rather than by the library: tables belong to whoever migrates, not to whoever appends.
CREATE TYPE quantagent.stored_event_uuid AS (
    originator_id uuid, originator_version bigint, topic text, state bytea
);

CREATE TABLE quantagent.events (
    originator_id uuid NOT NULL,
    originator_version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    notification_id bigserial,
    PRIMARY KEY (originator_id, originator_version)
);
CREATE UNIQUE INDEX events_notification_id_idx ON quantagent.events (notification_id);
CREATE INDEX events_topic_idx ON quantagent.events (topic, notification_id);

-- The same rows for people with psql.
CREATE VIEW quantagent.event_log AS
SELECT
    notification_id AS position,
    convert_from(state, 'UTF8')::jsonb -> 1 ->> 'stream' AS stream,
    originator_version AS version,
    topic AS name,
    convert_from(state, 'UTF8')::jsonb -> 0 AS payload,
    convert_from(state, 'UTF8')::jsonb -> 1 AS metadata
FROM quantagent.events;
