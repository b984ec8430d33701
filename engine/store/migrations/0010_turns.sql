-- What the database itself knows of an append (engine/store/guards.sql holds the functions and triggers).

-- Who sealed, and when, by the server's own clock and login: null in the seals of earlier versions of this program.
ALTER TABLE quantagent.seals
    ADD COLUMN sealed_at timestamptz,
    ADD COLUMN sealed_by text,
    ADD CONSTRAINT seals_sealed_check CHECK ((sealed_at IS NULL) = (sealed_by IS NULL));

-- What `begin_append` handed out last, in one row. Every append updates that row first, and so waits for the append
-- before it to end: positions become visible in their order, and a reader that follows the log passes none over.
CREATE TABLE quantagent.append_turn (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    transaction xid8 NOT NULL,
    seal bigint NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    events bigint NOT NULL,
    previous bytea NOT NULL,
    sealed_at timestamptz NOT NULL,
    sealed_by text NOT NULL
);
INSERT INTO quantagent.append_turn VALUES (true, '0', 0, 0, 0, 0, '', now(), '');

-- It returns more than before, which needs another function.
DROP FUNCTION quantagent.begin_append(bigint);
