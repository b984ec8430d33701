-- The newest events of some names, without reading the whole log. The position is negated so that no other index has
-- this order: the planner would walk the primary key backwards and, for a name that is rare, read every event.
CREATE INDEX events_by_name ON quantagent.events (topic, (-notification_id));
