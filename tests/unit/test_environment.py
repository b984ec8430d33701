"""`.ci/environment.py` with a real pip and wheels of its own: what a failed or interrupted installation leaves behind.

No package index is used, but for the one test that says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.lock_files import LOCKS, PEERS_LOCK, pins
from tests.support.paths import ROOT

# Python 3.11.0 brings this one; Debian 12 brings 23.0.1.
OLDEST_PIP = "22.3"

BACKEND = """
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "quantagent-1-py3-none-any.whl"
    with ZipFile(Path(folder, name), "w") as wheel:
        wheel.writestr("quantagent.pth", str(Path.cwd()))
        wheel.writestr("quantagent-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: quantagent\\nVersion: 1\\n")
        wheel.writestr("quantagent-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nTag: py3-none-any\\n")
        wheel.writestr("quantagent-1.dist-info/RECORD", "quantagent.pth,,\\n")
    return name
"""


@dataclass(frozen=True)
class Checkout:
    """A small project with locks of its own, and the folder of wheels that they pin."""

    root: Path
    wheels: Path

    def wheel(self, name: str, module: str) -> str:
        """Build a wheel of one module; return its pin."""
        info = f"{name}-1.dist-info"
        path = self.wheels / f"{name}-1-py3-none-any.whl"
        files = {
            f"{name}.py": module,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{file},sha256={_encoded(text)},{len(text)}\n" for file, text in files.items())
        with ZipFile(path, "w") as archive:
            for file, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                archive.writestr(file, text)
        return f"{name}==1 \\\n    --hash=sha256:{sha256(path.read_bytes()).hexdigest()}\n"

    def install(self, lock: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.root / ".ci/environment.py"), lock]
        variables = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        variables.pop("PYTHON", None)
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    def runs(self, module: str) -> bool:
        python = self.root / ".venv/bin/python"
        ended = subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL, check=False)
        return ended.returncode == 0

    def marks(self) -> list[str]:
        return sorted(path.name for path in (self.root / ".venv").glob("unfinished*"))


def _encoded(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout(tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheels"))
    (made.root / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/environment.py", made.root / ".ci")
    (made.root / "pyproject.toml").write_text(
        '[project]\nname = "quantagent"\nversion = "1"\n[build-system]\nrequires = []\nbuild-backend = "backend"\n'
    )
    needed, tool = made.wheel("needed", "VALUE = 1\n"), made.wheel("tool", "VALUE = 1\n")
    (made.root / "requirements-build.lock").write_text(made.wheel("backend", BACKEND))
    (made.root / "requirements.lock").write_text(needed)
    (made.root / "requirements-dev.lock").write_text(needed + tool)
    return made


@pytest.mark.slow
def test_the_runtime_layer_survives_a_failed_or_interrupted_development_layer(checkout: Checkout) -> None:
    done = checkout.install("requirements.lock")
    assert done.returncode == 0, done.stderr
    assert "installing 1 packages of requirements.lock" in done.stderr
    assert (checkout.runs("needed"), checkout.runs("tool"), checkout.runs("backend")) == (True, False, False)
    interpreter = (checkout.root / ".venv/bin/python").lstat().st_ino

    # The index does not have a pinned file.
    (hidden,) = checkout.wheels.glob("tool-*")
    hidden = hidden.rename(checkout.wheels / "hidden")
    failed = checkout.install("requirements-dev.lock")
    assert failed.returncode == 2
    assert "failed: see the lines above" in failed.stderr
    assert (checkout.marks(), checkout.runs("needed")) == ([], True)
    assert checkout.install("requirements.lock").stderr == ""

    # pip was killed while it changed files: the half-written package counts as installed for pip.
    hidden.rename(checkout.wheels / "tool-1-py3-none-any.whl")
    assert checkout.install("requirements-dev.lock").returncode == 0
    assert checkout.runs("tool")
    (written,) = (checkout.root / ".venv").rglob("tool.py")
    written.write_text("raise ImportError\n")
    (checkout.root / ".venv/installed-requirements-dev.lock").unlink()
    (checkout.root / ".venv/unfinished-requirements-dev.lock").touch()
    assert checkout.install("requirements.lock").stderr == ""
    assert checkout.install("requirements-dev.lock").returncode == 0
    assert (checkout.marks(), checkout.runs("tool")) == ([], True)
    assert (checkout.root / ".venv/bin/python").lstat().st_ino == interpreter

    # The same in the runtime layer: nothing of it is trusted.
    (checkout.root / ".venv/unfinished-requirements.lock").touch()
    (checkout.root / ".venv/left-behind").touch()
    rebuilt = checkout.install("requirements.lock")
    assert "creating .venv" in rebuilt.stderr
    assert not (checkout.root / ".venv/left-behind").exists()
    assert (checkout.marks(), checkout.runs("needed"), checkout.runs("tool")) == ([], True, False)


# --- Locks --------------------------------------------------------------------------------------------------------


def pinned_versions(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pin in pins(lock):
        name, _, version = pin.split(" ;")[0].partition("==")
        found.setdefault(canonicalize_name(name), set()).add(version.strip())
    return found


def test_the_development_lock_pins_all_that_any_package_in_it_requires() -> None:
    # Installed with --no-deps: pip looks for nothing that is missing here. Extras count too.
    pinned, waiting, seen = pinned_versions("requirements-dev.lock"), [("quantagent", "dev")], set[tuple[str, str]]()
    missing: list[str] = []
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            required = distribution(name).requires or ()
        except PackageNotFoundError:
            missing.append(name)
            continue
        for requirement in map(Requirement, required):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            if not any(requirement.specifier.contains(version, prereleases=True) for version in pinned.get(needed, ())):
                missing.append(f"{name} needs {requirement}")
            waiting += [(needed, each) for each in ("", *requirement.extras)]
    assert missing == []
    assert len(seen) > 100


def test_every_declared_dependency_has_both_bounds() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = text[text.index("dependencies = [") : text.index("[dependency-groups]")]
    declared = re.findall(r'^ {4}"([^"]+)",$', project, re.MULTILINE)
    assert len(declared) > 40
    loose = [
        requirement
        for requirement in declared
        if {"<", ">="} - {each.operator for each in Requirement(requirement).specifier}
        and "==" not in {each.operator for each in Requirement(requirement).specifier}
    ]
    assert loose == []


@pytest.mark.slow
@pytest.mark.parametrize("lock", [*LOCKS, PEERS_LOCK, "requirements-build.lock"])
def test_the_oldest_pip_takes_every_lock(lock: str, tmp_path: Path) -> None:
    """Asks the package index for everything that the lock pins, and installs nothing."""
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, f"pip=={OLDEST_PIP}"], check=True, capture_output=True)
    dry = [*pip, "--dry-run", "--ignore-installed", "--no-deps", "--require-hashes", "-r", str(ROOT / lock)]
    ended = subprocess.run(dry, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
