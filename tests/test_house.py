"""House rules: who may import whom, what the core may not name, and how long things may get."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = {
    "sessions": set(),
    "facets": {"sessions"},
    "encoder": {"sessions"},
    "contrastive": {"encoder", "sessions"},
    "profiles": {"sessions"},
    "evidence": {"sessions", "profiles"},
    "attacks": {"facets", "sessions"},
    "trees": set(),
    "outliers": {"trees"},
    "fusion": {"outliers", "trees"},
    "belief": set(),
    "drift": {"sessions"},
    "neighbours": set(),
    "guidance": {"sessions", "facets"},
    "opened": {"sessions"},
    "waiting": {"opened", "profiles", "sessions"},
}
EVERYBODY = {"records", "errors"}
BANNED_IN_CORE = {"time", "datetime", "random", "logging", "structlog", "sqlite3", "socket", "prometheus_client", "threading", "os"}
LONGEST_MODULE, LONGEST_FUNCTION = 810, 80  # lines; only ever lowered
MODULES = sorted([*ROOT.glob("detector/*.py"), *ROOT.glob("alerts/*.py")])


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at any place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module in ("detector", "alerts") else {node.module}
    return found


@pytest.mark.parametrize("name", sorted(CORE))
def test_a_core_module_imports_only_what_its_place_allows(name: str) -> None:
    own = {m.split(".")[1] for m in imports(ROOT / f"detector/{name}.py") if m.startswith("detector.")}
    assert own <= CORE[name] | EVERYBODY
    assert not any(m.startswith("alerts") for m in imports(ROOT / f"detector/{name}.py"))


@pytest.mark.parametrize("name", sorted({*CORE, "models", "samples", "scoring", "training"}))
def test_the_core_names_no_clock_no_chance_and_no_outside(name: str) -> None:
    assert not {m.split(".")[0] for m in imports(ROOT / f"detector/{name}.py")} & BANNED_IN_CORE


def test_only_one_module_imports_pyod() -> None:
    assert [p.name for p in MODULES if any(m.startswith("pyod") for m in imports(p))] == ["outliers.py"]


def test_nothing_loads_a_pickle() -> None:
    for path in MODULES:
        assert not {"pickle", "dill", "joblib", "cloudpickle"} & {m.split(".")[0] for m in imports(path)}, path
        assert "allow_pickle=True" not in path.read_text(), path


def test_only_the_command_line_imports_the_daemon() -> None:
    allowed = {"cli.py", "demo.py", "checking.py"}
    assert {p.name for p in MODULES if "detector.app" in imports(p)} <= allowed


def test_no_module_and_no_function_grows_beyond_the_longest() -> None:
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= LONGEST_MODULE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= LONGEST_FUNCTION, f"{path}: {node.name}"


def test_every_public_thing_says_what_it_does() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


def test_the_text_names_no_machine_and_no_unfinished_place() -> None:
    rule = re.compile(r"TO" r"DO|FIX" r"ME|NotImplemented" r"Error|# no" r"qa|/ro" r"ot/|/wo" r"rk/")
    for path in [*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("config/*"), ROOT / "README.md"]:
        if path.is_file():
            assert not rule.search(path.read_text()), path
