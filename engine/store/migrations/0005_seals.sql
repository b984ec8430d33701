-- What makes a change to the log show (engine/store/hash_chain.py), and what keeps changes out.

-- Which log this is: its first seal continues this name, and its anchors carry it.
CREATE TABLE quantagent.log_identity (
    log_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO quantagent.log_identity DEFAULT VALUES;

-- One row per append. `checks` holds four bytes per event: a CRC-32 that tells which one was changed.
CREATE TABLE quantagent.seals (
    seal bigint PRIMARY KEY CHECK (seal > 0),
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    events bigint NOT NULL CHECK (events > 0),
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    checks bytea NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.events
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.seals
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.imported_signals
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quantagent.log_identity
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_change();

-- How every append begins: it waits for its turn, wakes who listens, and takes the next positions.
-- The turn lasts until the transaction ends, so that positions become visible in their order: without it, a reader that
-- follows the log could pass over an event that commits late with a lower position, and miss it for ever.
-- Run with its owner's rights: a writer needs no right on the sequence, which it could move back.
CREATE FUNCTION quantagent.begin_append(
    events bigint, OUT first_position bigint, OUT seal bigint, OUT previous bytea
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF events IS NULL OR events NOT BETWEEN 1 AND 10000000 THEN
        RAISE EXCEPTION 'an append has 1 to 10000000 events, not %', events;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('quantagent.events', 0));
    NOTIFY events;
    PERFORM set_config('quantagent.append', pg_current_xact_id()::text, true);
    first_position := nextval('quantagent.events_notification_id_seq');
    IF events > 1 THEN
        PERFORM setval('quantagent.events_notification_id_seq', first_position + events - 1);
    END IF;
    SELECT s.seal, s.hash INTO seal, previous FROM quantagent.seals s ORDER BY s.seal DESC LIMIT 1;
    IF seal IS NULL THEN
        seal := 0;
        previous := (SELECT sha256(convert_to('quantagent log ' || log_id || E'\n', 'UTF8')) FROM quantagent.log_identity);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION quantagent.begin_append FROM PUBLIC;

-- A program of the version before knows nothing of seals: it must not append beside us.
CREATE FUNCTION quantagent.refuse_other_writers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('quantagent.append', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
        RAISE EXCEPTION 'events are appended through quantagent.begin_append: update the program that tried otherwise';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER only_by_append BEFORE INSERT ON quantagent.events
FOR EACH STATEMENT EXECUTE FUNCTION quantagent.refuse_other_writers();

-- Read models of earlier versions of this program were tables in this schema; now it holds views.
DROP SCHEMA IF EXISTS read_models CASCADE;
DROP SCHEMA IF EXISTS read_models_next CASCADE;
DROP SCHEMA IF EXISTS read_models_before CASCADE;
