"""The few errors a caller can act on. Each message says what happened, where, and what to do.

Bugs are not here: they crash. Refused trades are not here: they are events.
"""

from __future__ import annotations


class QuantagentError(Exception):
    """Base of every error whose message is meant for a person."""


class BadInput(QuantagentError):
    """What the user gave (a file, a name, a range, a setting) cannot be used; the message names the remedy."""


class NotFound(BadInput):
    """A run, order, profile, symbol or bar that does not exist."""


class VersionConflict(QuantagentError):
    """Another writer appended other facts to the stream first: nothing was written."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"{stream} is at version {actual}, not {expected}: another process wrote other facts to it first. "
            "Nothing was written; read it again and retry."
        )
        self.stream, self.expected, self.actual = stream, expected, actual


class AnalysisMissing(QuantagentError):
    """A replay met a bar for which no analysis is stored."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"no stored analysis {key}; a replay never makes one. Run `quantagent backtest` over that range first."
        )
        self.key = key


class ReplayDiverged(QuantagentError):
    """The same inputs gave other facts than the stored ones."""

    def __init__(self, stream: str, at: int, stored: str, regenerated: str) -> None:
        super().__init__(
            f"{stream} diverges at version {at}: stored {stored}, regenerated {regenerated}. "
            "The bars, the configuration or the engine version are not the ones of the stored run."
        )
        self.stream, self.at, self.stored, self.regenerated = stream, at, stored, regenerated


class RecordDiffers(QuantagentError):
    """The paper broker's record has something else under an id that was told again."""

    def __init__(self, run_id: str, what: str) -> None:
        super().__init__(
            f"the paper broker's record of run {run_id[:8]} has something else as {what}: "
            "look at `quantagent paper reconcile`, and restore the database from a copy if its rows were changed."
        )
        self.run_id, self.what = run_id, what


class UnreadableEvent(QuantagentError):
    """A stored event that this engine cannot load; `position` is its place in the log."""

    def __init__(self, message: str, name: str, position: int) -> None:
        super().__init__(message)
        self.name, self.position = name, position


class UnknownEvent(UnreadableEvent):
    """A stored name or version that this engine does not know."""

    def __init__(self, name: str, position: int) -> None:
        super().__init__(
            f"event {name!r} at position {position} is unknown to this engine version; "
            "read the log with the version that wrote it, or a newer one.",
            name,
            position,
        )


class DamagedEvent(UnreadableEvent):
    """A stored event whose bytes are not those of its name."""

    def __init__(self, name: str, position: int, reason: str) -> None:
        super().__init__(
            f"event {name!r} at position {position} cannot be read: {reason}. "
            "Run `quantagent audit verify` to see whether it was changed.",
            name,
            position,
        )


class EventMissing(QuantagentError):
    """A stream has a later version and lacks an earlier one, which no append leaves behind."""

    def __init__(self, stream: str, version: int) -> None:
        super().__init__(
            f"{stream} has no version {version:,} and goes on after it: an event is missing. "
            "Run `quantagent audit verify`, and restore the database from a copy."
        )
        self.stream, self.version = stream, version


class StoreUnavailable(QuantagentError):
    """The database cannot be reached or was not set up."""


class RowsDropped(StoreUnavailable):
    """The database stored fewer rows than it was sent and reported no error, as a trigger or a rule can make it."""

    def __init__(self, table: str, sent: int, stored: int) -> None:
        super().__init__(
            f"{sent:,} rows were sent to the table quantagent.{table} and it stored {stored:,}, so that a trigger or a "
            "rule drops rows: run `quantagent doctor`, which names it. Nothing of this step was stored."
        )
        self.table, self.sent, self.stored = table, sent, stored


class ProviderUnavailable(QuantagentError):
    """A provider of market data cannot answer: budget spent, refused, out of its reach, no network."""
