"""Pictures kept as files under the SHA-256 of their bytes, below the data folder; events name them by that digest.

Nothing here is needed to replay: a chart is a function of its window and can be drawn again, to the same digest.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

from analysis.charting.charts import thumbnail
from engine.core.errors import BadInput, NotFound

Policy = Literal["none", "path", "thumbnail"]
"""What is stored of a chart: nothing, the picture, or the picture and a small one of it."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artefacts:
    """The pictures below one folder; several threads and processes may write to it at once.

    Only the owner may read them: files have mode 0600, folders 0700. Raises `BadInput` where the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store_chart(self, policy: Policy, png: bytes) -> str:
        """Stores what the policy says of a chart; its digest, whatever is stored."""
        if policy == "none":
            return image_digest(png)
        digest = self.store(png)
        if policy == "thumbnail":
            self.store_thumbnail(digest, thumbnail(png))
        return digest

    def store(self, data: bytes) -> str:
        """Stores a picture once and returns its digest. One that is there already counts as new for `forget`."""
        digest = image_digest(data)
        self._write(self.path(digest), data)
        return digest

    def store_thumbnail(self, digest: str, data: bytes) -> None:
        """Stores the small picture of the one with that digest."""
        self._write(self.thumbnail_path(digest), data)

    def get(self, digest: str) -> bytes:
        """The picture with that digest. Raises `NotFound` if it is not stored, `BadInput` if its file was altered."""
        path = self.path(digest)
        data = self._read(path)
        if image_digest(data) != digest:
            raise BadInput(f"{path} was altered: its bytes are not those of its name. Delete it; the chart is redrawn.")
        return data

    def thumbnail(self, digest: str) -> bytes:
        """The small picture of the one with that digest. Raises `NotFound` if there is none."""
        return self._read(self.thumbnail_path(digest))

    def path(self, digest: str) -> Path:
        """Where the picture with that digest lies, if it is stored."""
        return self._shard(digest) / f"{digest}.png"

    def thumbnail_path(self, digest: str) -> Path:
        """Where its small picture lies, if it is stored."""
        return self._shard(digest) / f"{digest}.small.png"

    def delete_before(self, before: datetime, keep: Collection[str] = ()) -> int:
        """Deletes what was last stored before an instant, except the digests to keep; the number of bytes freed."""
        if before.tzinfo is None:
            raise ValueError("an instant has a time zone")
        kept, oldest, freed = frozenset(keep), before.timestamp(), 0
        with self._usable("deleted from"):
            for path in sorted(self._folder.glob("??/*.png")):
                # Another process may forget at the same time.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if status.st_mtime < oldest and path.name.partition(".")[0] not in kept:
                        path.unlink()
                        freed += status.st_size
        return freed

    def _shard(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BadInput(f"{digest[:80]!r} is no digest of a picture: those are 64 hex digits in lower case.")
        return self._folder / digest[:2]

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"no picture {path.name} is stored below {self._folder}: it was not kept or is forgotten, "
                "and can be drawn anew from the bars of its analysis."
            ) from None
        except OSError as error:
            raise self._unusable("read from", error) from error

    def _write(self, path: Path, data: bytes) -> None:
        with self._usable("written to"):
            if _is_stored(path, data):
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # Nobody sees half a picture; of two that write the same one, either may be last.
            handle, name = tempfile.mkstemp(prefix="half-", suffix=path.suffix, dir=path.parent)
            partial = Path(name)
            try:
                with open(handle, "wb") as file:
                    file.write(data)
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    @contextmanager
    def _usable(self, attempt: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable(attempt, error) from error

    def _unusable(self, attempt: str, error: OSError) -> BadInput:
        return BadInput(
            f"pictures cannot be {attempt} {self._folder} ({error.strerror or error}): make room there or the folder "
            "writable, or let the model preset keep no charts."
        )


def _is_stored(path: Path, data: bytes) -> bool:
    """Whether a file holds these bytes; if so, it is as new as one written now."""
    try:
        same = path.read_bytes() == data
        if same:
            os.utime(path)
    except FileNotFoundError:
        return False
    return same


def image_digest(data: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    return sha256(data).hexdigest()
