import json
import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.check import doctor
from cluster.check.doctor import CheckResult, diagnose
from cluster.check.machine import Machine, inspect_machine, read_gpu_gib, read_lock
from cluster.plan.plan import make_plan
from core.config import Config, build_config, load_config

LAPTOP = Machine(
    python=(3, 11),
    locked={"ray": "2.60.0", "torch": "2.13.0"},
    installed={"ray": "2.60.0", "torch": "2.13.0"},
    has_compiler=True,
    gpu_gib=(),
    memory_gib=23.0,
    free_disk_gib=74.0,
)


def failed(results: tuple[CheckResult, ...]) -> dict[str, str]:
    return {result.name: result.mend for result in results if not result.ok}


def config_of(**sections: dict[str, Any]) -> Config:
    return build_config(sections)


@pytest.fixture(autouse=True)
def _no_keys_and_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "SERPER_API_KEY", "BRAVE_API_KEY", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_laptop_is_told_all_that_the_published_recipe_lacks() -> None:
    found = failed(
        diagnose(load_config("gen-searcher-8b"), recipe="gen-searcher-8b", machine=LAPTOP)
    )

    assert {"gpu", "host_memory", "judge_key", "search_key", "model_files", "dataset"} <= set(found)
    assert all(found.values()), "every failed check says how to mend it"
    assert "export OPENAI_API_KEY" in found["judge_key"]
    assert "hf download Qwen/Qwen3-VL-8B-Instruct" in found["model_files"]


def test_a_laptop_with_the_nano_models_runs_the_nano_recipe(tmp_path: Path) -> None:
    config = config_of(
        policy={"path": model_at(tmp_path / "policy", "config.json")},
        render={"path": model_at(tmp_path / "renderer", "model_index.json")},
    )

    assert failed(diagnose(config, recipe="nano", machine=LAPTOP)) == {}


def model_at(folder: Path, file: str) -> str:
    """A folder that looks like a model; its size cannot be known."""
    folder.mkdir()
    (folder / file).write_text("{}")
    return str(folder)


def test_without_the_nano_models_it_says_how_to_build_them(tmp_path: Path) -> None:
    paths = {"policy": f"{tmp_path}/nano/policy", "render": f"{tmp_path}/nano/renderer"}
    config = config_of(policy={"path": paths["policy"]}, render={"path": paths["render"]})

    assert failed(diagnose(config, recipe="nano", machine=LAPTOP)) == {
        "model_files": "run `gensearcher nano build`"
    }


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        ({"python": (3, 10)}, "python", "this is Python 3.10"),
        ({"free_disk_gib": 0.4}, "disk", "0.4 are free"),
        ({"installed": {"ray": "2.60.0"}}, "packages", "torch is missing instead of 2.13.0"),
        (
            {"installed": {**LAPTOP.locked, "ray": "2.9"}},
            "packages",
            "ray is 2.9 instead of 2.60.0",
        ),
    ],
)
def test_one_missing_thing_fails_one_check(change: dict[str, Any], check: str, detail: str) -> None:
    results = diagnose(load_config("nano"), recipe="nano", machine=replace(LAPTOP, **change))

    (result,) = (one for one in results if one.name == check)
    assert not result.ok
    assert detail in result.detail
    assert result.mend


@pytest.mark.parametrize(
    ("sections", "detail"),
    [
        ({"tools": {"guard": {"allow": ["localhost"]}}}, "'localhost' must look like host:port"),
        ({"tools": {"guard": {"benchmark": "no.json"}}}, "tools.guard.benchmark no.json is not"),
        ({"judge": {"prompt_file": "no.yaml"}}, "judge.prompt_file: no.yaml cannot be read"),
        ({"judge": {"canary_every": 2, "canary_file": "no.json"}}, "judge.canary_file no.json is"),
    ],
)
def test_what_only_an_actor_would_miss_is_looked_at_before(
    sections: dict[str, Any], detail: str
) -> None:
    found = doctor.check_named_files(config_of(**sections))

    assert not found.ok
    assert detail in found.detail
    assert doctor.check_named_files(load_config("nano")).ok


def test_a_compiler_is_asked_for_where_vllm_compiles_for_a_gpu() -> None:
    bare = replace(LAPTOP, has_compiler=False)

    assert doctor.check_compiler(load_config("nano"), bare, joined=None).ok
    published = load_config("gen-searcher-8b")
    assert doctor.check_compiler(published, LAPTOP, joined=None).ok
    assert doctor.check_compiler(published, bare, joined="10.0.0.1:6379").ok
    missing = doctor.check_compiler(published, bare, joined=None)
    assert (missing.ok, missing.detail) == (False, "g++ was not found, vLLM compiles with it")


def test_gpus_are_counted_with_the_fewest_renderers_and_by_their_memory() -> None:
    config = load_config("gen-searcher-8b")
    plan = make_plan(config, recipe="gen-searcher-8b")

    def check(*gpu_gib: float) -> CheckResult:
        machine = replace(LAPTOP, gpu_gib=gpu_gib)
        return doctor.check_gpus(config, plan, machine, joined=None)

    assert check(*[80.0] * 10).ok  # 4 x 2 for vLLM, one renderer, one learner
    assert not check(*[80.0] * 9).ok
    assert not check(*[24.0] * 10).ok


def test_a_gpu_for_a_served_model_holds_its_weights_and_its_cache() -> None:
    known = "Qwen/Qwen3-VL-8B-Instruct"
    config = config_of(
        policy={"path": known},
        render={"path": "Qwen/Qwen-Image"},
        judge={"kind": "served", "served": {"path": known, "num_gpus_per_replica": 1}},
    )
    plan = make_plan(config, recipe="judged")

    found = doctor.check_gpus(config, plan, LAPTOP, joined=None)

    assert (found.ok, found.detail) == (False, "at least 1 GPUs of 17 GiB are needed, 0 are here")
    small, large = (replace(LAPTOP, gpu_gib=(size,)) for size in (16.0, 24.0))
    assert not doctor.check_gpus(config, plan, small, joined=None).ok
    assert doctor.check_gpus(config, plan, large, joined=None).ok


def test_host_memory_is_what_the_plan_adds_up() -> None:
    plan = make_plan(load_config("gen-searcher-8b"), recipe="gen-searcher-8b")

    assert doctor.check_host_memory(plan, replace(LAPTOP, memory_gib=512), joined=None).ok
    assert not doctor.check_host_memory(plan, replace(LAPTOP, memory_gib=128), joined=None).ok


def test_on_a_joined_cluster_the_own_gpus_and_memory_do_not_matter() -> None:
    config = load_config("gen-searcher-8b")
    plan = make_plan(config, recipe="gen-searcher-8b")

    assert doctor.check_gpus(config, plan, LAPTOP, joined="10.0.0.1:6379").ok
    assert doctor.check_host_memory(plan, LAPTOP, joined="10.0.0.1:6379").ok


def test_a_port_that_answers_is_told_from_a_dead_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.check_ray(f"127.0.0.1:{port}").ok
        assert doctor.check_ray(f"ray://127.0.0.1:{port}").ok
    dead = doctor.check_ray(f"127.0.0.1:{port}")

    assert not dead.ok
    assert f"nothing answers at 127.0.0.1:{port}" in dead.detail


@pytest.mark.parametrize(
    ("address", "detail"),
    [
        ("http://127.0.0.1:8265", "the address of a dashboard"),
        ("somewhere", "is not host:port"),
        ("host:many", "is not host:port"),
    ],
)
def test_an_address_of_the_wrong_kind_is_named(address: str, detail: str) -> None:
    result = doctor.check_ray(address)

    assert not result.ok
    assert detail in result.detail


def test_a_bad_dataset_row_is_found_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rl_data.json"
    path.write_text(json.dumps([{"id": 1, "gt_image": "a.png"}]))

    result = doctor.check_dataset(config_of(tasks={"source": "rl_data", "path": str(path)}))

    assert not result.ok
    assert "row 0: prompt" in result.detail


def test_a_judge_that_cannot_read_the_tasks_pictures_is_found_before_the_run() -> None:
    result = doctor.check_judge(config_of(tasks={"source": "rl_data", "path": "rl_data.json"}))

    assert not result.ok
    assert "judge.kind=openai" in result.mend
    assert doctor.check_judge(config_of()).ok


def test_a_gpu_that_shares_the_hosts_memory_is_believed() -> None:
    assert read_gpu_gib("81920\n[N/A]\n\n") == (80.0, math.inf)
    assert read_gpu_gib("") == ()


def test_a_gpu_that_cannot_be_used_is_not_counted() -> None:
    assert read_gpu_gib("81920\n[GPU requires reset]\nUnknown Error\n") == (80.0,)


def test_a_key_that_is_set_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("SERPER_API_KEY", "k")

    assert doctor.check_judge_key(config_of(judge={"kind": "openai", "model": "gpt-4.1"})).ok
    assert doctor.check_search_key(config_of(tools={"search": "serper"})).ok


def test_every_missing_key_is_named_at_once() -> None:
    tools = {"search": ["serper", "brave"], "image_search": "serper", "pages": ["jina"]}

    result = doctor.check_search_key(config_of(tools=tools))

    assert not result.ok
    assert result.detail == "SERPER_API_KEY for serper, BRAVE_API_KEY for brave: not set"
    assert result.mend == "export SERPER_API_KEY=... BRAVE_API_KEY=... before the run"


def test_a_lock_is_read_without_its_markers_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "cpu.txt"
    path.write_text("# made by uv\na==1.0\nb==2.0 ; sys_platform == 'linux'\n    # via a\n")

    assert read_lock(path) == {"a": "1.0", "b": "2.0"}
    assert read_lock(tmp_path / "none.txt") == {}


def test_this_machine_can_be_inspected_before_the_run_folder_exists(tmp_path: Path) -> None:
    machine = inspect_machine(tmp_path / "runs" / "new")

    assert machine.memory_gib > 0
    assert machine.free_disk_gib > 0
    assert set(machine.installed) <= set(machine.locked)


@pytest.mark.parametrize(
    ("render", "mend"),
    [
        ({"backend": "openai"}, "set render.api.model"),
        ({"backend": "openai", "api": {"model": "m"}}, "export OPENAI_API_KEY"),
        ({"backend": "gemini", "api": {"model": "m", "api_key_env": "G"}}, "export G="),
        ({"backend": "openai", "api": {"model": "m", "api_key_env": ""}}, None),
        ({}, None),
    ],
)
def test_a_providers_image_model_needs_a_name_and_a_key(
    render: dict[str, Any], mend: str | None
) -> None:
    found = failed(diagnose(config_of(render=render), recipe="nano", machine=LAPTOP))

    assert ("image_model" in found) == (mend is not None)
    assert (mend or "") in found.get("image_model", "")
    if render:
        assert "render.path" not in found.get("model_files", "")
