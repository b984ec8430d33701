"""Ways to tamper with a log and with what lies around it, and which check says no: the table of docs/audit.md.

Each `Tampering` is played in a laboratory of its own by `tests/store/test_tamperings.py`: a copy of a database with
four runs and of the home with its anchors and keys, beside copies of anchors and public key that the tamperer cannot
reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.audit.anchors import read_anchors
from engine.audit.chain import read_log_id
from engine.audit.signing import last_anchor_file
from engine.store.codec import stream_id
from engine.store.hash_chain import SealBuilder, format_sealed_at, row_bytes
from tests.support.paths import ROOT
from tests.support.tampering import INSERT_SEAL, forge

PAGE = ROOT / "docs/audit.md"
_TABLE = re.compile(r"(<!-- tamperings -->\n).*?(\n<!-- end of tamperings -->)", re.DOTALL)


class Lab(NamedTuple):
    """A laboratory: a database with a connection as its superuser, and the home that its anchors and keys are in."""

    dsn: str
    home: Path
    conn: psycopg.Connection[Any]

    @property
    def anchors(self) -> Path:
        (file,) = (self.home / "anchors").glob("*.jsonl")
        return file

    def sql(self, statements: str) -> None:
        """Past the triggers, as only a superuser can."""
        with self.conn.transaction():
            self.conn.execute("SET LOCAL session_replication_role = replica")
            self.conn.execute(statements.encode())

    def reseal(self) -> None:
        with self.conn.transaction():
            self.conn.execute("SET LOCAL session_replication_role = replica")
            forge(self.conn)


class Tampering(NamedTuple):
    """What is done, and the exit code of each check afterwards.

    start: the database it begins with: the `newest` state of the log, or the same or an `older` state in another
    database, as a backup is restored.
    """

    number: str
    what: str
    apply: Callable[[Lab], None]
    codes: Mapping[str, int]
    remark: str = ""
    start: str = "newest"


# --- What is done ---------------------------------------------------------------------------------------------------


def nothing(lab: Lab) -> None:
    del lab


def forge_a_fill(lab: Lab) -> None:
    lab.sql(
        "UPDATE quantagent.events SET state = convert_to(replace(convert_from(state, 'UTF8'), '\"price\":\"', "
        "'\"price\":\"1'), 'UTF8') WHERE notification_id = (SELECT min(notification_id) FROM quantagent.events "
        "WHERE topic LIKE 'OrderFilled%')"
    )
    lab.sql(
        "UPDATE quantagent.seals s SET checks = (SELECT string_agg(substring(sha256('\\x000500000010'::bytea || "
        "uuid_send(originator_id) || '\\x00000008'::bytea || int8send(originator_version) || "
        "int4send(octet_length(topic)) || convert_to(topic, 'UTF8') || int4send(octet_length(state)) || state || "
        "'\\x00000008'::bytea || int8send(notification_id)) FOR 4), '' ORDER BY notification_id) "
        "FROM quantagent.events WHERE notification_id BETWEEN s.first_position AND s.last_position)"
    )


def forge_a_fill_and_the_chain(lab: Lab) -> None:
    forge_a_fill(lab)
    lab.reseal()


def delete_the_anchors(lab: Lab) -> None:
    rmtree(lab.home / "anchors")


def forge_and_delete_the_anchors(lab: Lab) -> None:
    forge_a_fill_and_the_chain(lab)
    delete_the_anchors(lab)


def delete_a_run(lab: Lab) -> None:
    lab.sql(
        "DELETE FROM quantagent.events WHERE convert_from(state, 'UTF8')::jsonb -> 1 ->> 'correlation' = "
        "(SELECT convert_from(state, 'UTF8')::jsonb -> 0 ->> 'run_id' FROM quantagent.events "
        "WHERE topic LIKE 'RunEnded%' ORDER BY notification_id LIMIT 1)"
    )
    lab.reseal()


def swap_two_books(lab: Lab) -> None:
    rows = lab.conn.execute(
        "SELECT convert_from(state, 'UTF8')::jsonb -> 0 ->> 'run_id' FROM quantagent.events "
        "WHERE topic LIKE 'RunEnded%' ORDER BY notification_id LIMIT 2"
    ).fetchall()
    one, other = (stream_id(f"book:{run}") for (run,) in rows)
    third = stream_id("book:of-neither")
    for source, target in ((one, third), (other, one), (third, other)):
        lab.sql(f"UPDATE quantagent.events SET originator_id = '{target}' WHERE originator_id = '{source}'")
    lab.reseal()


def restore_and_delete_the_anchors(lab: Lab) -> None:
    delete_the_anchors(lab)


def invent_a_run(lab: Lab) -> None:
    """As the writer role, with every rule of an append kept: who may append, may append this."""
    payload = b'{"run_id":"invented","reason":"never was"}'
    meta = b'{"stream":"run:invented","recorded_at":"2019-01-01T00:00:00Z","actor":"alice","correlation":"invented",'
    state = b"[" + payload + b"," + meta + b'"causation":"","engine":"0.2.0"}]'
    key = stream_id("run:invented")
    with lab.conn.transaction():
        lab.conn.execute("SET LOCAL ROLE quantagent_writer")
        turn = lab.conn.execute("SELECT * FROM quantagent.begin_append(1)").fetchone()
        assert turn is not None
        position, seal, previous, at, by = turn
        lab.conn.execute("INSERT INTO quantagent.events VALUES (%s, 1, 'RunFailed.v1', %s, %s)", (key, state, position))
        sealing = SealBuilder(seal + 1, position, position, 1, previous, format_sealed_at(at), by)
        sealing.add([row_bytes(key.bytes, 1, b"RunFailed.v1", state, position)])
        lab.conn.execute(INSERT_SEAL, sealing.build())


def change_a_bar(lab: Lab) -> None:
    lab.sql("UPDATE quantagent.bars SET close = low WHERE opened_at = (SELECT min(opened_at) FROM quantagent.bars)")


def revise_a_bar_in_the_past(lab: Lab) -> None:
    with lab.conn.transaction():
        lab.conn.execute("SET LOCAL ROLE quantagent_writer")
        lab.conn.execute(
            "INSERT INTO quantagent.bars SELECT symbol, timeframe, opened_at, closed_at, open, high, low, low, volume, "
            "revision + 1, learned_at, source FROM quantagent.bars ORDER BY opened_at LIMIT 1"
        )


def change_a_signal(lab: Lab) -> None:
    lab.sql(
        "UPDATE quantagent.imported_signals SET confidence = 1 - confidence, "
        "decision = CASE decision WHEN 'LONG' THEN 'SHORT' ELSE 'LONG' END WHERE row_number = 5"
    )


def edit_an_anchor(lab: Lab) -> None:
    lines = lab.anchors.read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b'"position":', b'"position":1')
    lab.anchors.write_bytes(b"".join(lines))


def cut_the_anchors_and_rewrite_the_tail(lab: Lab) -> None:
    lines = lab.anchors.read_bytes().splitlines(keepends=True)
    lab.anchors.write_bytes(b"".join(lines[:1]))
    position = read_anchors(lab.anchors)[0].position
    lab.sql(f"UPDATE quantagent.events SET topic = 'RunFailed.v1' WHERE notification_id > {position}")
    lab.reseal()


def delete_the_key(lab: Lab) -> None:
    (lab.home / "keys" / "anchor.pem").unlink()


def put_another_key(lab: Lab) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (lab.home / "keys" / "anchor.pem").write_bytes(pem)
    (lab.home / "keys" / "anchor.pub").write_text(key.public_key().public_bytes_raw().hex() + "\n")
    return key


def replace_the_key(lab: Lab) -> None:
    put_another_key(lab)


def resign_everything(lab: Lab) -> None:
    """By a tamperer who has the whole home, too: anchors, keys, and what was remembered."""
    forge_a_fill_and_the_chain(lab)
    key = put_another_key(lab)
    public = key.public_key().public_bytes_raw().hex()
    hashes = dict(lab.conn.execute("SELECT seal, encode(hash, 'hex') FROM quantagent.seals").fetchall())
    lines: list[bytes] = []
    for each in read_anchors(lab.anchors):
        unsigned = msgspec.structs.replace(each, hash=hashes[each.seal], key=public, signature="")
        signed = msgspec.structs.replace(unsigned, signature=key.sign(unsigned.signed_text).hex())
        lines.append(msgspec.json.encode(signed) + b"\n")
    lab.anchors.write_bytes(b"".join(lines))
    last_anchor_file(lab.home, read_log_id(lab.conn)).unlink()


def repeat_an_anchor(lab: Lab) -> None:
    lines = lab.anchors.read_bytes().splitlines(keepends=True)
    lab.anchors.write_bytes(b"".join([*lines, lines[0]]))


def show_the_auditor_a_view(lab: Lab) -> None:
    lab.sql(
        "ALTER TABLE quantagent.events RENAME TO hidden;"
        "CREATE VIEW quantagent.events AS SELECT originator_id, originator_version, topic, "
        "CASE WHEN current_user = 'quantagent_auditor' THEN state ELSE convert_to(replace(convert_from(state, 'UTF8'), "
        "'LONG', 'SHORT'), 'UTF8') END AS state, notification_id FROM quantagent.hidden;"
        "GRANT SELECT ON quantagent.events TO quantagent_writer, quantagent_reader, quantagent_auditor"
    )


def show_the_auditor_other_rows(lab: Lab) -> None:
    lab.sql(
        "ALTER TABLE quantagent.events ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY auditor ON quantagent.events TO quantagent_auditor USING (true);"
        "CREATE POLICY others ON quantagent.events USING (topic NOT LIKE 'OrderFilled%')"
    )


def rename_the_log(lab: Lab) -> None:
    lab.sql("UPDATE quantagent.log_identity SET log_id = gen_random_uuid()")
    lab.reseal()


def swallow_rows(lab: Lab) -> None:
    lab.sql(
        "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER a BEFORE INSERT ON quantagent.events FOR EACH ROW EXECUTE FUNCTION public.swallow();"
        "CREATE TRIGGER a BEFORE INSERT ON quantagent.seals FOR EACH ROW EXECUTE FUNCTION public.swallow()"
    )


def alter_rows(lab: Lab) -> None:
    lab.sql(
        "CREATE FUNCTION public.alter_rows() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.state := NEW.state || ''\\x20''::bytea; RETURN NEW; END';"
        "CREATE TRIGGER a BEFORE INSERT ON quantagent.events FOR EACH ROW EXECUTE FUNCTION public.alter_rows()"
    )


def drop_the_guards(lab: Lab) -> None:
    lab.sql(
        "DROP TRIGGER append_only ON quantagent.events; DROP TRIGGER append_only ON quantagent.seals;"
        "GRANT ALL ON ALL TABLES IN SCHEMA quantagent TO PUBLIC"
    )


def assert_refused(lab: Lab, *statements: str) -> None:
    """The database refuses it to the writer role, whole."""
    try:
        with lab.conn.transaction():
            lab.conn.execute("SET LOCAL ROLE quantagent_writer")
            for statement in statements:
                lab.conn.execute(statement.encode())
    except psycopg.errors.RaiseException:
        return
    raise AssertionError(f"the database accepted {statements}")


def insert_the_highest_position(lab: Lab) -> None:
    assert_refused(
        lab,
        "SELECT * FROM quantagent.begin_append(1)",
        "INSERT INTO quantagent.events SELECT gen_random_uuid(), 1, topic, state, 9223372036854775807 "
        "FROM quantagent.events LIMIT 1",
    )


def insert_a_seal_that_fits_nothing(lab: Lab) -> None:
    assert_refused(
        lab,
        "SELECT * FROM quantagent.begin_append(1)",
        "INSERT INTO quantagent.seals SELECT seal + 1, 9999, 9999, 1, hash, hash, checks, now(), 'me' "
        "FROM quantagent.seals ORDER BY seal DESC LIMIT 1",
    )


def change_a_trade(lab: Lab) -> None:
    (schema,) = lab.conn.execute(
        "SELECT table_schema FROM information_schema.tables WHERE table_name = 'trades' AND table_type = 'BASE TABLE'"
    ).fetchone() or ("",)
    lab.sql(f"UPDATE {schema}.trades SET net_pnl = net_pnl + 1")


def invent_a_call(lab: Lab) -> None:
    """A call, with its texts, of an analysis that was made by rules and names none."""
    lab.sql(
        "INSERT INTO quantagent.llm_bodies SELECT encode(sha256(convert_to(body, 'UTF8')), 'hex'), body "
        "FROM unnest(ARRAY['{}', '[]']) AS bodies (body);"
        "INSERT INTO quantagent.llm_calls (analysis_id, version, preset, variant, asked_at, node, seq, attempt, model, "
        "outcome, request, response, input_tokens, output_tokens, cost, latency_ms, answered_by, system_fingerprint) "
        "SELECT convert_from(state, 'UTF8')::jsonb -> 0 ->> 'analysis_id', 1, 'm', 'm@1', now(), 'decision', 1, 1, "
        "'m', 'answered', encode(sha256('{}'), 'hex'), encode(sha256('[]'), 'hex'), 1, 1, 0, 1, '', '' "
        "FROM quantagent.events WHERE topic LIKE 'AnalysisMade%' ORDER BY notification_id LIMIT 1"
    )


def delete_the_imports(lab: Lab) -> None:
    lab.sql("DELETE FROM quantagent.bar_imports")


def delete_the_requests(lab: Lab) -> None:
    lab.sql("DELETE FROM quantagent.refused_bars; DELETE FROM quantagent.asked_bars")


# --- The table ------------------------------------------------------------------------------------------------------

VERIFY, COPIES, ANCHOR, DOCTOR = "verify", "verify with copies", "anchor", "doctor"
REGENERATE, EXPORT, NEXT, READ_MODELS = "regenerate", "export", "next command", "projections verify"
CHECKS = (VERIFY, COPIES, EXPORT, REGENERATE, ANCHOR, DOCTOR, READ_MODELS, NEXT)

TAMPERINGS = (
    Tampering("0", "nothing", nothing, dict.fromkeys(CHECKS, 0)),
    Tampering(
        "1",
        "the price of a fill changed, and the check bytes of its seal",
        forge_a_fill,
        {VERIFY: 3, COPIES: 3, EXPORT: 3, REGENERATE: 3},
    ),
    Tampering(
        "2",
        "the same, and the chain made again from the first seal",
        forge_a_fill_and_the_chain,
        {VERIFY: 3, COPIES: 3, EXPORT: 3, REGENERATE: 3, ANCHOR: 2, DOCTOR: 3},
    ),
    Tampering(
        "3",
        "the same, and the file of anchors deleted",
        forge_and_delete_the_anchors,
        {VERIFY: 3, COPIES: 3, ANCHOR: 2, DOCTOR: 3},
    ),
    Tampering(
        "4", "a run deleted with its events, the chain made again", delete_a_run, {VERIFY: 3, COPIES: 3, ANCHOR: 2}
    ),
    Tampering("5", "the books of two runs swapped", swap_two_books, {VERIFY: 3, COPIES: 3, ANCHOR: 2}),
    Tampering(
        "6",
        "an old dump restored, the anchors kept",
        nothing,
        {VERIFY: 3, COPIES: 3, ANCHOR: 2, DOCTOR: 3},
        "a copy of the log: `quantagent db adopt`",
        "older",
    ),
    Tampering(
        "7",
        "an old dump restored, the anchors deleted",
        restore_and_delete_the_anchors,
        {VERIFY: 3, COPIES: 3, ANCHOR: 2, DOCTOR: 3},
        "the same",
        "older",
    ),
    Tampering(
        "8",
        'a run invented by the writer role, recorded "2019 by alice"',
        invent_a_run,
        {VERIFY: 0, COPIES: 0},
        "a notice names the server's time and the login: who may append, may append anything",
    ),
    Tampering(
        "9", "read models only: the profit of a trade", change_a_trade, {VERIFY: 0, READ_MODELS: 3}, "evidence is kept"
    ),
    Tampering("10", "bars of a run changed", change_a_bar, {VERIFY: 3, REGENERATE: 3}),
    Tampering(
        "11",
        "a bar revised by the writer role, as if learned in the past",
        revise_a_bar_in_the_past,
        {VERIFY: 3, REGENERATE: 3},
    ),
    Tampering("12", "a row of imported signals changed", change_a_signal, {VERIFY: 3, REGENERATE: 3}),
    Tampering(
        "13",
        "a model call and its texts invented",
        invent_a_call,
        {VERIFY: 3},
        "of an analysis in the log; a call of no analysis is believed",
    ),
    Tampering("14", "a line of the file of anchors edited", edit_an_anchor, {VERIFY: 3, ANCHOR: 2, DOCTOR: 3}),
    Tampering(
        "15",
        "the file of anchors cut, and the log's tail rewritten",
        cut_the_anchors_and_rewrite_the_tail,
        {VERIFY: 3, COPIES: 3, ANCHOR: 2, DOCTOR: 3},
    ),
    Tampering("16a", "the signing key deleted", delete_the_key, {VERIFY: 0, ANCHOR: 2, DOCTOR: 3}, "the log is whole"),
    Tampering("16b", "another key in its place", replace_the_key, {VERIFY: 3, COPIES: 0, ANCHOR: 2, DOCTOR: 3}),
    Tampering(
        "17",
        "everything at home signed again with the tamperer's key",
        resign_everything,
        {VERIFY: 0, COPIES: 3, EXPORT: 3},
        "with the whole home in other hands, only copies kept elsewhere show it",
    ),
    Tampering("18", "an old anchor repeated at the end of the file", repeat_an_anchor, {VERIFY: 0}, "harmless"),
    Tampering(
        "19",
        "a fork of the log, in the same home or in one of its own",
        nothing,
        {VERIFY: 3, COPIES: 3, ANCHOR: 2, DOCTOR: 3},
        "a copy of the log: `quantagent db adopt`; the original is not touched",
        "fork",
    ),
    Tampering(
        "20a",
        "`events` replaced by a view that shows the auditor clean rows",
        show_the_auditor_a_view,
        {VERIFY: 3, COPIES: 3, DOCTOR: 3},
    ),
    Tampering(
        "20b",
        "row security that shows the auditor clean rows",
        show_the_auditor_other_rows,
        {VERIFY: 3, COPIES: 3, DOCTOR: 3},
    ),
    Tampering(
        "21", "the log renamed, the chain made again", rename_the_log, {VERIFY: 3, COPIES: 3, ANCHOR: 2, DOCTOR: 3}
    ),
    Tampering("22", "a trigger that swallows rows of events and seals", swallow_rows, {VERIFY: 3, DOCTOR: 3, NEXT: 1}),
    Tampering("23", "a trigger that alters rows on their way", alter_rows, {VERIFY: 3, DOCTOR: 3, NEXT: 1}),
    Tampering(
        "24",
        "append-only triggers dropped, all rights granted to public",
        drop_the_guards,
        {VERIFY: 3, COPIES: 3, DOCTOR: 3},
        "`quantagent db upgrade` restores them",
    ),
    Tampering(
        "25",
        "position 2^63-1 inserted by the writer role",
        insert_the_highest_position,
        {VERIFY: 0, NEXT: 0},
        "the database refuses it",
    ),
    Tampering(
        "26",
        "a seal that fits nothing inserted by the writer role",
        insert_a_seal_that_fits_nothing,
        {VERIFY: 0, NEXT: 0},
        "the database refuses it",
    ),
    Tampering("27a", "the list of imports deleted", delete_the_imports, {VERIFY: 3}),
    Tampering(
        "27b",
        "the lists of refused rows and of requests to providers deleted",
        delete_the_requests,
        {VERIFY: 0},
        "no result depends on them: what may have to be fetched is requested again",
    ),
)


def table() -> str:
    """The tamperings as a table for people: an exit code per check that was run."""
    rows = [f"| # | tampering | {' | '.join(CHECKS)} | remark |", "| --- " * (len(CHECKS) + 3) + "|"]
    for each in TAMPERINGS:
        codes = (str(each.codes.get(check, "")) for check in CHECKS)
        rows.append(f"| {each.number} | {each.what} | {' | '.join(codes)} | {each.remark} |")
    return "\n".join(re.sub(" +", " ", row) for row in rows)


def document() -> str:
    """docs/audit.md with the table between its two marks."""
    text, found = _TABLE.subn(lambda marks: f"{marks[1]}\n{table()}\n{marks[2]}", PAGE.read_text(encoding="utf-8"))
    assert found == 1
    return text
