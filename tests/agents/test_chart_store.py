"""Pictures are found again under the digest of their bytes, unaltered, or the store says what is wrong."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.charting.chart_store import Artefacts, Policy, image_digest
from analysis.charting.charts import pattern_chart, thumbnail
from engine.core.errors import BadInput, NotFound
from tests.support.frames import walk_frame

PNG = pattern_chart(walk_frame(1, 60))
NOBODYS = sha256(b"nothing").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "artefacts")


def files(store: Artefacts) -> list[Path]:
    return sorted(path for path in store.path(NOBODYS).parent.parent.rglob("*") if path.is_file())


def aged(path: Path, stored_at: datetime) -> None:
    os.utime(path, (stored_at.timestamp(), stored_at.timestamp()))


def test_a_picture_is_found_under_its_sha256(store: Artefacts) -> None:
    digest = store.store(PNG)
    assert digest == sha256(PNG).hexdigest() == image_digest(PNG)
    assert store.get(digest) == PNG
    assert files(store) == [store.path(digest)]
    assert store.path(digest).parts[-2:] == (digest[:2], f"{digest}.png")


def test_only_the_owner_may_read_them(store: Artefacts) -> None:
    before = os.umask(0)
    try:
        path = store.path(store.store(PNG))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


@pytest.mark.parametrize(("policy", "kept"), [("none", 0), ("path", 1), ("thumbnail", 2)])
def test_a_policy_says_what_is_stored_and_the_digest_is_the_same(store: Artefacts, policy: Policy, kept: int) -> None:
    digest = store.store_chart(policy, PNG)
    assert digest == image_digest(PNG)
    assert len(files(store)) == kept
    if policy == "thumbnail":
        assert store.thumbnail(digest) == thumbnail(PNG)
        assert files(store) == [store.path(digest), store.thumbnail_path(digest)]


def test_what_is_not_stored_is_not_found_and_can_be_drawn_again(store: Artefacts) -> None:
    for read in (store.get, store.thumbnail):
        with pytest.raises(NotFound, match=r"was not kept, or was deleted .* can be redrawn"):
            read(NOBODYS)


@pytest.mark.parametrize("altered", [PNG[:-1], PNG + b"x", b"", PNG.replace(b"IDAT", b"IDAD", 1)])
def test_an_altered_picture_is_never_handed_out_and_is_mended_by_storing_it(store: Artefacts, altered: bytes) -> None:
    digest = store.store(PNG)
    store.path(digest).write_bytes(altered)
    with pytest.raises(BadInput, match=r"was altered: its bytes do not match its name\. Delete it"):
        store.get(digest)
    assert store.store(PNG) == digest
    assert store.get(digest) == PNG


@given(st.one_of(st.text(), st.sampled_from(["../../etc/passwd", "A" * 64, "0" * 63, f"{'0' * 64}\n", f"{'٣' * 64}"])))
def test_what_is_no_digest_leads_nowhere(text: str) -> None:
    store = Artefacts(Path("/nowhere"))
    for reach in (store.path, store.get, store.thumbnail, store.thumbnail_path):
        with pytest.raises(BadInput, match="is not the digest of an image"):
            reach(text)


def test_many_writers_of_one_picture_leave_one_whole_file(store: Artefacts) -> None:
    with ThreadPoolExecutor(8) as pool:
        keeping = [pool.submit(store.store_chart, "thumbnail", PNG) for _ in range(40)]
        assert {each.result() for each in keeping} == {image_digest(PNG)}
    assert files(store) == [store.path(image_digest(PNG)), store.thumbnail_path(image_digest(PNG))]
    assert store.get(image_digest(PNG)) == PNG


# --- Retention ----------------------------------------------------------------------------------------------------

NOW = datetime(2024, 6, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=40)


def test_old_pictures_are_forgotten_except_those_to_keep(store: Artefacts) -> None:
    old, kept, young = (store.store_chart("thumbnail", pattern_chart(walk_frame(seed, 50))) for seed in range(3))
    for digest in (old, kept):
        aged(store.path(digest), OLD)
        aged(store.thumbnail_path(digest), OLD)
    aged(store.path(young), NOW)
    aged(store.thumbnail_path(young), NOW)
    size = store.path(old).stat().st_size + store.thumbnail_path(old).stat().st_size
    assert store.delete_before(NOW, keep={kept}) == size
    assert store.delete_before(NOW, keep={kept}) == 0
    assert {path.name[:64] for path in files(store)} == {kept, young}
    with pytest.raises(NotFound):
        store.get(old)


def test_a_picture_stored_again_counts_as_new(store: Artefacts) -> None:
    digest = store.store(PNG)
    aged(store.path(digest), OLD)
    store.store(PNG)
    assert store.delete_before(NOW) == 0
    assert store.get(digest) == PNG


def test_half_a_picture_of_a_writer_that_was_killed_is_forgotten_too(store: Artefacts) -> None:
    digest = store.store(PNG)
    half = store.path(digest).with_name("half-a1b2.png")
    half.write_bytes(PNG[:100])
    aged(half, OLD)
    assert store.delete_before(NOW, keep={digest}) == 100
    assert files(store) == [store.path(digest)]


def test_a_picture_stored_while_others_forget_is_whole_or_gone(store: Artefacts) -> None:
    pictures = [bytes([n]) * 1000 for n in range(40)]
    for data in pictures:
        aged(store.path(store.store(data)), OLD)

    def stored_and_read(data: bytes) -> bool:
        digest = store.store(data)
        try:
            return store.get(digest) == data
        except NotFound:
            return True

    with ThreadPoolExecutor(8) as pool:
        forgetting = [pool.submit(store.delete_before, NOW) for _ in range(8)]
        assert all(pool.map(stored_and_read, pictures * 3))
        assert sum(each.result() for each in forgetting) <= 40 * 1000
    assert [store.get(store.store(data)) for data in pictures] == pictures


def test_nothing_stored_is_nothing_to_forget(store: Artefacts) -> None:
    assert store.delete_before(NOW) == 0
    with pytest.raises(ValueError, match="time zone"):
        store.delete_before(NOW.replace(tzinfo=None))


# --- A folder that cannot be used ---------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    store = Artefacts(tmp_path / "taken" / "artefacts")
    with pytest.raises(BadInput, match=r"^images cannot be written to .*artefacts \(Not a directory\): free space"):
        store.store(PNG)
    with pytest.raises(BadInput, match="cannot be read from"):
        store.get(image_digest(PNG))
    assert store.store_chart("none", PNG) == image_digest(PNG)


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing_behind(
    store: Artefacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BadInput, match=r"No space left on device\): free space"):
        store.store(PNG)
    assert files(store) == []
