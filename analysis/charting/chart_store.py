"""Storage of chart images as files named by the SHA-256 of their bytes, the digest that events refer to.

A replay does not need them: a chart is a function of its window and can be redrawn with the same digest.
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
"""Stored files of a chart: none, the image, or the image and a thumbnail."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artefacts:
    """Chart images below one folder; several threads and processes may write to it at once.

    Only the owner can read them: files have mode 0600, folders 0700. Raise `BadInput` if the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store_chart(self, policy: Policy, png: bytes) -> str:
        """Store a chart according to the policy; return its digest, even if nothing is stored."""
        if policy == "none":
            return image_digest(png)
        digest = self.store(png)
        if policy == "thumbnail":
            self.store_thumbnail(digest, thumbnail(png))
        return digest

    def store(self, data: bytes) -> str:
        """Store an image once and return its digest. Storing it again resets its age for `delete_before`."""
        digest = image_digest(data)
        self._write(self.path(digest), data)
        return digest

    def store_thumbnail(self, digest: str, data: bytes) -> None:
        """Store the thumbnail of the image with a digest."""
        self._write(self.thumbnail_path(digest), data)

    def get(self, digest: str) -> bytes:
        """Return the image with a digest. Raise `NotFound` if it is not stored, `BadInput` if its file was altered."""
        path = self.path(digest)
        data = self._read(path)
        if image_digest(data) != digest:
            raise BadInput(
                f"{path} was altered: its bytes do not match its name. Delete it; the chart can be redrawn from the "
                "bars of its analysis."
            )
        return data

    def thumbnail(self, digest: str) -> bytes:
        """Return the thumbnail of the image with a digest. Raise `NotFound` if it is not stored."""
        return self._read(self.thumbnail_path(digest))

    def path(self, digest: str) -> Path:
        """Return the path of the image with a digest; the file need not exist."""
        return self._shard(digest) / f"{digest}.png"

    def thumbnail_path(self, digest: str) -> Path:
        """Return the path of the thumbnail of an image; the file need not exist."""
        return self._shard(digest) / f"{digest}.small.png"

    def delete_before(self, before: datetime, keep: Collection[str] = ()) -> int:
        """Delete images last stored before an instant, except the digests to keep; return the number of bytes freed."""
        if before.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        kept, oldest, freed = frozenset(keep), before.timestamp(), 0
        with self._usable("deleted from"):
            for path in sorted(self._folder.glob("??/*.png")):
                # Another process may delete at the same time.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if status.st_mtime < oldest and path.name.partition(".")[0] not in kept:
                        path.unlink()
                        freed += status.st_size
        return freed

    def _shard(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BadInput(f"{digest[:80]!r} is not the digest of an image: it must be 64 lowercase hex digits.")
        return self._folder / digest[:2]

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"image {path.name} is not stored below {self._folder}: it was not kept, or was deleted after its "
                "retention period. It can be redrawn from the bars of its analysis."
            ) from None
        except OSError as error:
            raise self._unusable("read from", error) from error

    def _write(self, path: Path, data: bytes) -> None:
        with self._usable("written to"):
            if _is_stored(path, data):
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # Written to a temporary file and renamed, so that no reader sees a partial image.
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
            f"images cannot be {attempt} {self._folder} ({error.strerror or error}): free space, make the folder "
            "writable, or set charts to none in the model preset."
        )


def _is_stored(path: Path, data: bytes) -> bool:
    """Return True if a file holds these bytes, and then set its modification time to now."""
    try:
        same = path.read_bytes() == data
        if same:
            os.utime(path)
    except FileNotFoundError:
        return False
    return same


def image_digest(data: bytes) -> str:
    """Return the SHA-256 of an image in hex."""
    return sha256(data).hexdigest()
