"""A database connection that breaks around a COMMIT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from engine.store.migrations import migrate
from tests.support.databases import database
from tests.support.proxies import CuttingProxy


class Line(NamedTuple):
    """A database, and the way to it through a proxy."""

    dsn: str
    through_proxy: str
    proxy: CuttingProxy


@pytest.fixture
def line(tcp_server: str) -> Iterator[Line]:
    with database(tcp_server, "template0") as made:
        migrate(made)
        given = conninfo_to_dict(made)
        proxy = CuttingProxy(str(given["host"]), int(given["port"] or 5432))
        yield Line(made, make_conninfo(made, port=proxy.port), proxy)
        proxy.close()
