"""Writes engine/store/objects.txt: `python -m tests.guarded_objects DSN`, with the DSN of a new migrated database."""

from __future__ import annotations

import sys

import psycopg

from engine.store.guards import objects
from tests.documents import ROOT

LIST = ROOT / "engine/store/objects.txt"


def main(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        LIST.write_text("".join(f"{line}\n" for line in objects(conn)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
