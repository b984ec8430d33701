"""What holds for the whole repository: rules that no single module can keep, and files that are not Python.

The import contracts are in `.importlinter` and are checked by `make lint`; here is what imports cannot show.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.lock_files import LOCKS, PEERS_LOCK, pins
from tests.support.paths import ROOT

PACKAGES = ("engine", "analysis", "projections", "ui")


def sources(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    """(path, syntax tree) of every module of the packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def pure_core() -> list[str]:
    """The paths of all modules in the packages that the contract `pure` names."""
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    packages = contracts["importlinter:contract:pure"]["source_modules"].split()
    return [path for path, _ in sources(*(package.replace(".", "/") for package in packages))]


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules a tree imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(tree: ast.Module) -> Iterator[str]:
    """What a tree calls, as written: `float`, `datetime.now`."""
    return (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))


# --- Code ---------------------------------------------------------------------------------------------------------


def test_no_file_in_ui_bears_the_name_of_another_package() -> None:
    # Streamlit puts the folder of its script first on the path: `ui/email.py` would be everybody's `import email`.
    taken = {*sys.stdlib_module_names, *packages_distributions(), *PACKAGES, "quantagent", "tests"}
    here = {path.stem for path in (ROOT / "ui").iterdir() if not path.name.startswith(("_", "."))}
    assert here
    assert here & taken == set()


# The supervisor of the embedded server waits for a process of the operating system: real seconds are its subject.
READS_REAL_TIME = ("engine/clock.py", "engine/store/embedded")
READS_TIME = re.compile(
    r"(^|\.)(datetime|date)\.(now|utcnow|today)$|^time\.(time|time_ns|monotonic|perf_counter|localtime|gmtime)$"
)


def test_only_the_clock_reads_the_time() -> None:
    readers = {
        path
        for path, tree in sources("engine", "analysis", "projections")
        for name in (*called(tree), *imported(tree))
        if READS_TIME.search(name)
    }
    assert "engine/clock.py" in readers
    assert {path for path in readers if not path.startswith(READS_REAL_TIME)} == set()


def test_no_id_or_number_comes_from_chance() -> None:
    chance = re.compile(r"^(random|secrets)\b|uuid\.uuid[14]|numpy\.random|np\.random|os\.urandom")
    found = {
        f"{path}: {name}"
        for path, tree in sources("engine", "analysis", "projections")
        for name in (*called(tree), *imported(tree))
        if chance.search(name)
    }
    assert found == set()


def test_the_core_knows_no_floats() -> None:
    floats = [
        f"{path}:{node.lineno}"
        for path in pure_core()
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "float")
    ]
    assert floats == []


ALLOWED_IN_CORE = {
    *("__future__", "bisect", "collections", "dataclasses", "datetime", "decimal", "engine", "enum", "functools"),
    *("hashlib", "itertools", "msgspec", "operator", "re", "typing", "uuid"),
}


@pytest.mark.parametrize("path", pure_core())
def test_the_core_imports_values_and_pure_functions_only(path: str) -> None:
    # The contract in .importlinter forbids by name; a package that nobody has thought of yet is refused here.
    names = {name.split(".")[0] for name in imported(ast.parse((ROOT / path).read_text()))}
    assert names <= ALLOWED_IN_CORE


def test_nothing_runs_what_it_reads() -> None:
    runs_data = re.compile(
        r"^(pickle|cPickle|dill|marshal|shelve|joblib)\b|^(eval|exec|compile|__import__)$|yaml\.(unsafe_|full_)?load$"
    )
    found = {
        f"{path}: {name}"
        for path, tree in sources(*PACKAGES)
        for name in (*called(tree), *imported(tree))
        if runs_data.search(name)
    }
    assert found == set()


def test_nobody_imports_the_python_door() -> None:
    # import-linter takes packages only, and `quantagent.py` is a module: it stands above all and nothing leans on it.
    importers = {
        path for path, tree in sources(*PACKAGES) for name in imported(tree) if name.split(".")[0] == "quantagent"
    }
    assert importers == set()


# --- Tests --------------------------------------------------------------------------------------------------------

# A loaded machine may be ten times slower than a quiet one: a test that measures time, or that gives up after
# seconds, is red there without a fault. What may read an interval clock, and why:
MEASURES_TIME = {
    "tests/support/waiting.py": "ends a wait that hangs",
    "tests/conftest.py": "ends a wait that hangs",
    "tests/support/databases.py": "ends a wait that hangs",
    "tests/support/model_server.py": "stamps requests, for the order of their beginnings and ends",
    "tests/unit/test_money_law.py": "prints how long its millions of operations took",
}
INTERVAL_CLOCK = re.compile(r"^time\.(monotonic|perf_counter|process_time)(_ns)?$|^(monotonic|perf_counter)$")
LIMITS = {"communicate", "get", "join", "result", "run", "urlopen", "wait", "wait_procs"}
LIMIT_MIN_S = 60


def modules_of_tests() -> Iterator[tuple[str, ast.Module]]:
    """The modules of tests; benchmarks measure time, which is their purpose."""
    return (
        (path, tree) for path, tree in sources("tests") if not path.startswith(("tests/support/bench", "tests/peers/"))
    )


def test_no_test_measures_time() -> None:
    readers = {
        path
        for path, tree in modules_of_tests()
        for name in (*called(tree), *imported(tree))
        if INTERVAL_CLOCK.search(name)
    }
    assert readers == MEASURES_TIME.keys()


def test_helpers_of_tests_are_in_support_only() -> None:
    imports = {
        f"{path}: {name}"
        for path, tree in sources("tests")
        for name in imported(tree)
        if re.match(r"tests\.(?!support|peers)\w+\.|tests\.test_", name) and not path.startswith("tests/peers/")
    }
    assert imports == set()
    tests = [
        f"{path}: {node.name}"
        for path, tree in sources("tests/support")
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests == []


def limits_given(tree: ast.Module) -> Iterator[tuple[int, float]]:
    """(line, seconds) of each limit of a wait that a tree gives as a number."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        given = [keyword.value for keyword in node.keywords if keyword.arg in ("timeout", "default_timeout")]
        if name in LIMITS and name != "get":
            given += node.args[:1]
        for value in given:
            if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
                yield node.lineno, float(value.value)


def test_no_wait_of_a_test_ends_before_a_busy_machine_is_ready() -> None:
    short = [
        f"{path}:{line}: {seconds:g} s"
        for path, tree in modules_of_tests()
        for line, seconds in limits_given(tree)
        if seconds < LIMIT_MIN_S
    ]
    assert short == []


@pytest.mark.parametrize(
    ("source", "limits"),
    [
        ("process.communicate(timeout=30)", [30]),
        ("thread.join(2)", [2]),
        ("queue.get(timeout=0.5)", [0.5]),
        ("subprocess.run(words, timeout=90)", [90]),
        ("', '.join(words); answers.get(3); thread.join(GIVE_UP_S)", []),
    ],
)
def test_limits_are_found_in_every_form(source: str, limits: list[float]) -> None:
    assert [seconds for _, seconds in limits_given(ast.parse(source))] == limits


# --- Dependencies -------------------------------------------------------------------------------------------------


def project() -> dict[str, list[str]]:
    """The names that pyproject.toml depends on: always, and for development."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["project"]
    return {
        "requirements.lock": names_of(table["dependencies"]),
        "requirements-dev.lock": names_of(table["dependencies"] + table["optional-dependencies"]["dev"]),
    }


def names_of(requirements: list[str]) -> list[str]:
    return [re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements]


@pytest.mark.parametrize("lock", [*LOCKS, PEERS_LOCK, "requirements-build.lock"])
def test_every_pin_is_exact_and_has_a_hash_and_none_an_address(lock: str) -> None:
    for pin, hashes in pins(lock).items():
        assert re.match(r"[a-z0-9._-]+==[^ ]+( ;|$)", pin), pin
        assert hashes.startswith("sha256:"), pin
    text = (ROOT / lock).read_text()
    assert [word for word in ("://", "file:", "--index", "--find-links", "@") if word in text] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_of_the_project_is_pinned(lock: str) -> None:
    pinned = {pin.split("==")[0] for pin in pins(lock)}
    assert set(project()[lock]) - pinned == set()


def test_the_other_engines_are_pinned_in_a_lock_of_their_own() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        peers = set(names_of(tomllib.load(file)["dependency-groups"]["peers"]))
    pinned = {lock: {pin.split("==")[0] for pin in pins(lock)} for lock in (*LOCKS, PEERS_LOCK)}
    assert peers <= pinned[PEERS_LOCK]
    assert [lock for lock in LOCKS if peers & pinned[lock]] == []


def test_the_development_lock_pins_what_the_other_one_pins() -> None:
    # `.ci/environment.py` relies on it: what is installed for tests serves the demo too.
    # A tool may need on every system what the project needs on some.
    runtime, development = ({(pin.split(" ;")[0], hashes) for pin, hashes in pins(lock).items()} for lock in LOCKS)
    assert runtime - development == set()


# --- Makefile and environment -------------------------------------------------------------------------------------


def phony_targets() -> set[str]:
    declared = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared
    return set(declared[1].split())


def test_every_make_target_is_in_the_help() -> None:
    shown = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")}
    rules = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    internal = {"runtime", "tools"}
    assert listed == rules - internal
    assert rules == phony_targets()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the environment is made from, and no `.venv` yet."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/environment.py", tmp_path / ".ci")
    for name in ("pyproject.toml", "requirements-build.lock", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("machine", "remedy"),
    [
        ("sys.version_info = (3, 9, 2)", "PYTHON=python3.12 make demo"),
        ("sys.modules['ensurepip'] = None", "apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_named_with_the_remedy(checkout: Path, machine: str, remedy: str) -> None:
    script = str(checkout / ".ci/environment.py")
    program = f"import runpy, sys; sys.argv = [{script!r}, 'requirements.lock']; {machine}\n"
    program += f"runpy.run_path({script!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert remedy in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (checkout / ".venv").exists()


# --- Files beside the code ----------------------------------------------------------------------------------------


def test_the_license_is_mit() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "MIT"


def test_the_image_copies_only_what_its_context_holds() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {name for line in copies for name in line.split()} == set(let_in)
    assert [name for name in let_in if not (ROOT / name).exists()] == []


def test_containers_publish_their_ports_on_the_loopback_only() -> None:
    published = re.findall(r'^\s+- "?([\d.:]+:\d+)"?$', (ROOT / "docker/compose.yaml").read_text(), re.MULTILINE)
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_docker_is_a_folder_and_no_package() -> None:
    # With an __init__.py it would hide the library of that name.
    assert not (ROOT / "docker/__init__.py").exists()
