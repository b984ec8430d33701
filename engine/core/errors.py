"""Errors that a user can act on. Bugs are not among them: they crash. Refused trades are events.

A message states facts: what happened, the value, where. It names no command and no flag, because the next step depends
on the interface; `ui.cli.remedies` adds them for the command line, by the code of the error.
"""

from __future__ import annotations

from typing import ClassVar


class QuantagentError(Exception):
    """Base class of all errors that are reported as one sentence.

    code: stable name of the cause, for programs and remedies; fields: the values that the remedy may name.
    """

    default_code: ClassVar[str] = "ERROR"

    def __init__(self, message: str, code: str = "", **fields: object) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.fields = fields


class BadInput(QuantagentError):
    """A file, name, range or setting from the user that cannot be used."""

    default_code = "BAD_INPUT"


class NotFound(BadInput):
    """A run, order, profile, symbol or bar that does not exist."""

    default_code = "NOT_FOUND"


class VersionConflict(QuantagentError):
    """Another writer appended different events to the stream first; nothing was written."""

    default_code = "VERSION_CONFLICT"

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"{stream} is at version {actual}, not {expected}: another process appended other events first. "
            "Nothing was written; read it again and retry."
        )
        self.stream, self.expected, self.actual = stream, expected, actual


class AnalysisMissing(QuantagentError):
    """A replay reached a bar without a stored analysis."""

    default_code = "ANALYSIS_MISSING"

    def __init__(self, key: str) -> None:
        super().__init__(f"analysis {key} is not stored, and a replay creates none.")
        self.key = key


class ReplayDiverged(QuantagentError):
    """The same inputs produced events that differ from the stored ones."""

    default_code = "REPLAY_DIVERGED"

    def __init__(self, stream: str, at: int, stored: str, regenerated: str) -> None:
        super().__init__(
            f"{stream} diverges at version {at}: stored {stored}, regenerated {regenerated}. "
            "The bars, the configuration or the engine version are not the ones of the stored run."
        )
        self.stream, self.at, self.stored, self.regenerated = stream, at, stored, regenerated


class RecordDiffers(QuantagentError):
    """The paper broker's record holds a different row under an id that was submitted twice."""

    default_code = "BROKER_RECORD_DIFFERS"

    def __init__(self, run_id: str, item: str) -> None:
        super().__init__(f"the paper broker's record of run {run_id[:8]} holds a different {item}.")
        self.run_id, self.item = run_id, item


class UnreadableEvent(QuantagentError):
    """A stored event that this engine cannot load; `position` is its place in the log."""

    default_code = "EVENT_UNREADABLE"

    def __init__(self, message: str, name: str, position: int) -> None:
        super().__init__(message)
        self.name, self.position = name, position


class UnknownEvent(UnreadableEvent):
    """A stored event with a name or version that this engine does not know."""

    default_code = "EVENT_UNKNOWN"

    def __init__(self, name: str, position: int) -> None:
        super().__init__(
            f"event {name!r} at position {position} is unknown to this engine version; "
            "read the log with the version that wrote it, or a newer one.",
            name,
            position,
        )


class DamagedEvent(UnreadableEvent):
    """A stored event whose payload does not match the shape of its name."""

    default_code = "EVENT_DAMAGED"

    def __init__(self, name: str, position: int, reason: str) -> None:
        super().__init__(
            f"event {name!r} at position {position} cannot be read: {reason}.",
            name,
            position,
        )


class EventMissing(QuantagentError):
    """A stream that has a later version but lacks an earlier one; no append produces this state."""

    default_code = "EVENT_MISSING"

    def __init__(self, stream: str, version: int) -> None:
        super().__init__(f"{stream} has no version {version:,} and continues after it: an event is missing.")
        self.stream, self.version = stream, version


class StoreUnavailable(QuantagentError):
    """The database cannot be reached or was not set up."""

    default_code = "STORE_UNAVAILABLE"


class RowsDropped(StoreUnavailable):
    """The database stored fewer rows than it received and reported no error: a trigger or rule drops rows."""

    default_code = "ROWS_DROPPED"

    def __init__(self, table: str, sent: int, stored: int) -> None:
        super().__init__(
            f"{sent:,} rows were sent to the table quantagent.{table} and it stored {stored:,}: a trigger or a rule "
            "drops rows. Nothing of this step was stored."
        )
        self.table, self.sent, self.stored = table, sent, stored


class ProviderUnavailable(QuantagentError):
    """A provider of market data that cannot answer: rate limit, refusal, range out of reach, no network."""

    default_code = "PROVIDER_UNAVAILABLE"
