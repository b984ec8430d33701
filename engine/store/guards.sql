-- Every function and trigger that protects the log, as it has to be. Run after the migrations, and by
-- `quantagent db upgrade`, with no trigger present on the tables of the schema. `objects.txt` lists the outcome.

CREATE OR REPLACE FUNCTION quantagent.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: rows are added, never changed or removed', TG_TABLE_SCHEMA, TG_TABLE_NAME;
END
$$;

-- How every append begins: it takes its turn, notifies the listeners, and takes the next positions.
-- The turn lasts until the transaction ends. Run with the owner's rights: a writer needs no right on the sequence, which
-- it could move back, nor on the row of the turn, which nobody else can lock.
CREATE OR REPLACE FUNCTION quantagent.begin_append(
    events bigint, OUT first_position bigint, OUT seal bigint, OUT previous bytea,
    OUT sealed_at timestamptz, OUT sealed_by text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    turn quantagent.append_turn;
BEGIN
    IF events IS NULL OR events NOT BETWEEN 1 AND 10000000 THEN
        RAISE EXCEPTION 'an append has 1 to 10000000 events, not %', events;
    END IF;
    SELECT * INTO STRICT turn FROM quantagent.append_turn FOR UPDATE;
    IF turn.transaction = pg_current_xact_id()
        AND NOT EXISTS (SELECT FROM quantagent.seals s WHERE s.seal = turn.seal) THEN
        RAISE EXCEPTION 'seal % is missing: an append ends with its seal before the next one begins', turn.seal;
    END IF;
    NOTIFY events;
    first_position := nextval('quantagent.events_notification_id_seq');
    IF events > 1 THEN
        PERFORM setval('quantagent.events_notification_id_seq', first_position + events - 1);
    END IF;
    SELECT s.seal, s.hash INTO seal, previous FROM quantagent.seals s ORDER BY s.seal DESC LIMIT 1;
    IF seal IS NULL THEN
        seal := 0;
        previous := quantagent.genesis();
        INSERT INTO quantagent.log_databases (log_id, database)
        SELECT log_id, quantagent.this_database() FROM quantagent.log_identity;
    END IF;
    sealed_at := clock_timestamp();
    sealed_by := session_user;
    UPDATE quantagent.append_turn t SET transaction = pg_current_xact_id(), seal = begin_append.seal + 1,
        first_position = begin_append.first_position,
        last_position = begin_append.first_position + begin_append.events - 1, events = begin_append.events,
        previous = begin_append.previous, sealed_at = begin_append.sealed_at, sealed_by = begin_append.sealed_by;
END
$$;

-- What the first seal of the log continues (engine/store/hash_chain.py).
CREATE OR REPLACE FUNCTION quantagent.genesis() RETURNS bytea LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(convert_to('quantagent log ' || log_id || E'\n', 'UTF8')) FROM quantagent.log_identity
    WHERE parent IS NULL
$$;

-- The database that is connected to, as `quantagent.log_databases` names it.
CREATE OR REPLACE FUNCTION quantagent.this_database() RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT system_identifier FROM pg_control_system())
        || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
$$;

-- Events are written in the turn of their transaction, at the positions that it was given, before its seal.
CREATE OR REPLACE FUNCTION quantagent.check_events() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    turn quantagent.append_turn;
    outside bigint;
BEGIN
    SELECT * INTO STRICT turn FROM quantagent.append_turn;
    IF turn.transaction IS DISTINCT FROM pg_current_xact_id()
        OR EXISTS (SELECT FROM quantagent.seals s WHERE s.seal = turn.seal) THEN
        RAISE EXCEPTION 'events are appended through quantagent.begin_append: update the program that tried otherwise';
    END IF;
    SELECT n.notification_id INTO outside FROM inserted n
    WHERE (n.notification_id BETWEEN turn.first_position AND turn.last_position) IS NOT TRUE LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'position % is not one of % to %, which quantagent.begin_append gave to this append',
            outside, turn.first_position, turn.last_position;
    END IF;
    RETURN NULL;
END
$$;

-- A seal has the numbers that its turn was given, and the digests of the very rows that were written.
CREATE OR REPLACE FUNCTION quantagent.check_seal() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    turn quantagent.append_turn;
    stored bigint;
    digests bytea;
    checks bytea;
    sealed_at bytea;
    sealed_by bytea;
BEGIN
    SELECT * INTO STRICT turn FROM quantagent.append_turn;
    IF turn.transaction IS DISTINCT FROM pg_current_xact_id()
        OR (NEW.seal, NEW.first_position, NEW.last_position, NEW.events, NEW.previous, NEW.sealed_at, NEW.sealed_by)
        IS DISTINCT FROM (turn.seal, turn.first_position, turn.last_position, turn.events, turn.previous,
            turn.sealed_at, turn.sealed_by) THEN
        RAISE EXCEPTION
            'seal % is not the one that quantagent.begin_append gave: update the program that tried otherwise', NEW.seal;
    END IF;
    SELECT count(*), coalesce(string_agg(row_digest, '' ORDER BY position), ''),
        coalesce(string_agg(substring(row_digest FOR 4), '' ORDER BY position), '')
    INTO stored, digests, checks
    FROM (
        SELECT e.notification_id AS position, sha256(
            '\x000500000010'::bytea || uuid_send(e.originator_id) || '\x00000008'::bytea || int8send(e.originator_version)
            || int4send(octet_length(e.topic)) || convert_to(e.topic, 'UTF8')
            || int4send(octet_length(e.state)) || e.state || '\x00000008'::bytea || int8send(e.notification_id)
        ) AS row_digest
        FROM quantagent.events e WHERE e.notification_id BETWEEN turn.first_position AND turn.last_position
    ) AS rows;
    IF stored <> turn.events THEN
        RAISE EXCEPTION '% events were appended and % are stored', turn.events, stored;
    END IF;
    sealed_at := convert_to(to_char(turn.sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'UTF8');
    sealed_by := convert_to(turn.sealed_by, 'UTF8');
    IF NEW.checks IS DISTINCT FROM checks OR NEW.hash IS DISTINCT FROM sha256(
        convert_to(E'quantagent seal 2\n', 'UTF8') || turn.previous || int8send(turn.seal)
        || int8send(turn.first_position) || int8send(turn.last_position) || int8send(turn.events)
        || int4send(octet_length(sealed_at)) || sealed_at || int4send(octet_length(sealed_by)) || sealed_by || digests
    ) THEN
        RAISE EXCEPTION 'seal % is not that of the events that are stored', NEW.seal;
    END IF;
    RETURN NULL;
END
$$;

-- At the end of its transaction, an append has its seal.
CREATE OR REPLACE FUNCTION quantagent.check_sealed() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM quantagent.seals s WHERE s.seal = NEW.seal) THEN
        RAISE EXCEPTION 'seal % is missing: an append ends with its seal', NEW.seal;
    END IF;
    RETURN NULL;
END
$$;

-- A function of an earlier version that no trigger calls any more.
DROP FUNCTION IF EXISTS quantagent.refuse_other_writers();

-- Triggers run their functions without it.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA quantagent FROM PUBLIC;

CREATE TRIGGER check_events AFTER INSERT ON quantagent.events
REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION quantagent.check_events();
CREATE TRIGGER check_seal AFTER INSERT ON quantagent.seals
FOR EACH ROW EXECUTE FUNCTION quantagent.check_seal();
CREATE CONSTRAINT TRIGGER check_sealed AFTER UPDATE ON quantagent.append_turn
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION quantagent.check_sealed();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'events', 'seals', 'log_identity', 'log_databases', 'bars', 'bar_imports', 'refused_bars', 'asked_bars', 'imported_signals',
        'paper_accounts', 'paper_orders', 'paper_executions', 'paper_endings', 'paper_cash', 'paper_slots',
        'llm_calls', 'llm_bodies'
    ] LOOP
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change()', name);
    END LOOP;
END
$$;

-- The log and the bars for people with psql.
CREATE OR REPLACE VIEW quantagent.event_log AS
SELECT
    notification_id AS position,
    convert_from(state, 'UTF8')::jsonb -> 1 ->> 'stream' AS stream,
    originator_version AS version,
    topic AS name,
    convert_from(state, 'UTF8')::jsonb -> 0 AS payload,
    convert_from(state, 'UTF8')::jsonb -> 1 AS metadata
FROM quantagent.events;
CREATE OR REPLACE VIEW quantagent.current_bars AS
SELECT DISTINCT ON (symbol, timeframe, opened_at)
    symbol, timeframe, opened_at, closed_at, open, high, low, close, volume, learned_at, source
FROM quantagent.bars
ORDER BY symbol, timeframe, opened_at, revision DESC;
