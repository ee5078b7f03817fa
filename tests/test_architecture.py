"""The house rules that no linter knows: who may import whom, sizes, and the documented walk."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("core", "envs", "rewards", "learners", "actors", "cluster")

MAY_IMPORT = {
    "core": {"pydantic", "numpy", "yaml"},
    "envs": {"core", "aiohttp", "numpy", "PIL", "pydantic", "trafilatura", "transformers", "yarl"},
    "rewards": {"core", "numpy", "PIL", "yaml"},
    "learners": {
        *("core", "envs.chat", "numpy", "PIL", "pydantic"),
        *("torch", "deepspeed", "transformers", "peft", "safetensors", "xxhash"),
    },
    "actors": {
        *(
            "core",
            "envs",
            "rewards",
            "learners.receive",
            "learners.flat",
            "learners.lora",
            "numpy",
            "PIL",
            "pydantic",
            "psutil",
        ),
        *("torch", "transformers", "safetensors", "ray", "vllm", "diffusers"),
    },
}
"""What a room may import beside the standard library and itself; cluster may import all."""

ALSO = {
    "learners/rllib_learner.py": {"ray", "envs.node_images"},  # a shell, as actors
    "actors/vllm_chat.py": {"starlette"},  # vLLM's server keeps its parts in a State
    "actors/rollout.py": {"gymnasium"},  # RLlib asks for spaces
}
"""Single files that may import more than their room, because that is their job."""

HOMES = {
    "vllm": ("actors/vllm_",),
    "deepspeed": ("learners/engine.py",),
    "diffusers": ("actors/", "cluster/nano/renderer.py"),
    "ray": ("actors/", "cluster/", "learners/rllib_learner.py"),
    "wandb": ("cluster/track/tracking.py",),
}
"""Where a heavy library may appear at all."""

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 80
LONG_MODULES = {"core/records.py": "the whole vocabulary in one place, most of it field docs"}
LONG_FUNCTIONS: dict[str, str] = {}
"""Exceptions to the two limits, each with its reason. Kept empty as long as can be."""


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every imported name, dotted: `from envs import chat` and `import envs.chat` are the same."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def illegal_imports(room: str, path: str, tree: ast.AST) -> list[str]:
    allowed = {room, *MAY_IMPORT[room], *ALSO.get(path, set()), *sys.stdlib_module_names}
    return [f"{path} imports {name}" for name in imports_of(tree) if not is_within(name, allowed)]


def homeless_imports(path: str, tree: ast.AST) -> list[str]:
    return [
        f"{path} imports {name}"
        for name in imports_of(tree)
        if (homes := HOMES.get(name.split(".")[0])) and not path.startswith(homes)
    ]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    found = [
        line
        for path in python_files(room)
        for line in illegal_imports(room, name_of(path), tree_of(path))
    ]
    assert found == []


def test_heavy_libraries_stay_at_home() -> None:
    found = [
        line
        for path in python_files(*ROOMS)
        for line in homeless_imports(name_of(path), tree_of(path))
    ]
    assert found == []


def test_the_import_check_catches_what_it_must() -> None:
    planted = ast.parse("import torch\nfrom envs import episode\ndef f():\n    import ray.serve\n")

    assert len(illegal_imports("core", "core/x.py", planted)) == 3
    assert illegal_imports("learners", "learners/x.py", planted) == [
        "learners/x.py imports envs.episode",
        "learners/x.py imports ray.serve",
    ]
    assert homeless_imports("envs/x.py", planted) == ["envs/x.py imports ray.serve"]


def test_modules_are_short() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(*ROOMS, "benchmarks", "tests")
    }
    long = {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES}
    assert {name: n for name, n in long.items() if name not in LONG_MODULES} == {}
    assert set(LONG_MODULES) <= set(long), "these exceptions are no longer needed"


def test_functions_are_short() -> None:
    long = {
        f"{name_of(path)}::{node.name}": length
        for path in python_files(*ROOMS, "benchmarks")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert {name: n for name, n in long.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(long), "these exceptions are no longer needed"


def test_nothing_prints_and_nothing_is_mocked() -> None:
    prints = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files(*ROOMS)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    mocks = [
        name_of(path)
        for path in python_files("tests")
        if any(is_within(name, {"unittest.mock", "mock"}) for name in imports_of(tree_of(path)))
    ]
    assert (prints, mocks) == ([], [])


def test_no_test_imports_another() -> None:
    """What they share stands in tests/fakes, tests/builders*.py and modules like them."""
    found = [
        f"{name_of(path)} imports {name}"
        for path in python_files("tests")
        for name in imports_of(tree_of(path))
        if name.startswith("tests.") and ".test_" in name
    ]
    assert found == []


@pytest.mark.parametrize("module", ["core.config", "cluster.cli"])
def test_light_modules_import_without_the_heavy_libraries(module: str) -> None:
    code = (
        f"import sys, time; t = time.process_time(); import {module}; "
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'diffusers', 'deepspeed'}; "
        "print(time.process_time() - t, *sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, *heavy = run.stdout.split()
    assert heavy == []
    assert float(seconds) < 1.0, "of processor time, so that a busy machine does not count"


def defined_names(tree: ast.Module) -> set[str]:
    """Functions and classes of a module, and methods as `Class.method`."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            )
    return names


def test_every_station_of_the_documented_walk_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    stations = sorted(set(re.findall(r"([\w/]+\.py)::([\w.]+)", text)))
    missing = [
        f"{path}::{name}"
        for path, name in stations
        if not (ROOT / path).is_file() or name not in defined_names(tree_of(ROOT / path))
    ]
    assert missing == []
    assert len(stations) >= 15, "the walk through one training step has more stations than this"
