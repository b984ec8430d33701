"""The instant at which tests sign the head of a log."""

from __future__ import annotations

from datetime import UTC, datetime

AT = datetime(2024, 1, 1, tzinfo=UTC)
