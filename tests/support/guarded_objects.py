"""Write engine/store/objects.txt: `python -m tests.support.guarded_objects DSN` of a newly migrated database."""

from __future__ import annotations

import sys

import psycopg

from engine.store.guards import list_objects
from tests.support.paths import ROOT

OBJECTS_FILE = ROOT / "engine/store/objects.txt"


def main(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        OBJECTS_FILE.write_text("".join(f"{line}\n" for line in list_objects(conn)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
