"""Write engine/store/objects.txt: `python -m tests.support.guarded_objects DSN` of a newly migrated database."""

from __future__ import annotations

import sys

import psycopg

from engine.store.guards import objects
from tests.support.paths import ROOT

LIST = ROOT / "engine/store/objects.txt"


def main(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        LIST.write_text("".join(f"{line}\n" for line in objects(conn)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
