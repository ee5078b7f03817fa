import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import (
    RECIPES,
    Config,
    build_config,
    has_secret,
    load_config,
    ray_address,
    save_config,
    secret,
)
from core.errors import ConfigError
from core.records import StopReason


def test_every_recipe_loads() -> None:
    recipes = sorted(path.stem for path in RECIPES.glob("*.yaml"))

    assert {"nano", "gen-searcher-8b"} <= set(recipes)
    for recipe in recipes:
        load_config(recipe)


def test_the_nano_recipe_fits_two_cores() -> None:
    config = load_config("nano")
    cpus = (
        config.rollout.num_workers * config.rollout.num_cpus_per_worker
        + config.render.max_replicas * config.render.num_cpus_per_replica
        + config.learner.num_cpus
        + config.cluster.search_num_cpus
        + config.cluster.judge_num_cpus
    )

    assert cpus <= 2


def test_the_published_recipe_has_the_published_numbers() -> None:
    config = load_config("gen-searcher-8b")

    assert (config.train.groups_per_step, config.train.group_size) == (8, 6)
    assert (config.learner.lr, config.learner.clip_low, config.learner.clip_high) == (
        *(1e-6, 0.2, 0.28),
    )
    assert (config.rollout.temperature, config.rollout.top_p) == (0.7, 0.95)
    assert (config.rollout.max_turns, config.rollout.max_tokens_per_turn) == (10, 4096)
    assert config.rollout.max_context == 36_000
    assert (config.reward.text_weight, config.reward.na_rule) == (0.5, "paper")
    assert (config.render.steps, config.render.true_cfg_scale) == (40, 4.0)
    assert set(config.train.masked_stop_reasons) == {StopReason.TOO_LONG, StopReason.REPEATED}


def test_overrides_reach_their_field_and_keep_their_type() -> None:
    config = load_config(
        "nano",
        overrides=[
            *("train.steps=2", "learner.lr=1e-4", "render.seeds=[1, 2]", "policy.path=a=b"),
            *('run.name="7"', "judge.model=1e5x"),
            *("train.masked_stop_reasons=[too_long]", "judge.api_key_env="),
        ],
    )

    assert config.train.steps == 2
    assert math.isclose(config.learner.lr, 1e-4)
    assert config.render.seeds == (1, 2)
    assert config.policy.path == "a=b"
    assert (config.run.name, config.judge.model) == ("7", "1e5x")
    assert config.train.masked_stop_reasons == (StopReason.TOO_LONG,)
    assert config.judge.api_key_env == ""


def test_a_saved_config_reads_back_unchanged(tmp_path: Path) -> None:
    config = load_config("gen-searcher-8b", overrides=["learner.sequence_band=[0.99, 1.01]"])

    save_config(config, tmp_path / "config.yaml")

    assert load_config(str(tmp_path / "config.yaml")) == config


@given(st.floats(min_value=1e-12, max_value=1e3, allow_nan=False))
def test_any_learning_rate_survives_its_text(lr: float) -> None:
    assert load_config("nano", overrides=[f"learner.lr={lr}"]).learner.lr == lr


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.step=3", "train.step: unknown key; did you mean 'train.steps'?"),
        ("trian.steps=3", "trian: unknown key; did you mean 'train'?"),
        ("learner.lr=.inf", "learner.lr: Input should be a finite number"),
        ("learner.betas=[0.9, 1.0]", "learner.betas.1: Input should be less than 1, got 1.0"),
        ("render.seeds=[]", "render.seeds: Tuple should have at least 1 item"),
        ("train.steps=many", "train.steps: Input should be a valid integer"),
        ("train.steps=0", "train.steps: Input should be greater than or equal to 1, got 0"),
        ("train.steps", "override 'train.steps' must look like section.key=value"),
        ("run.name.first=x", "override 'run.name.first=x': 'name' is a value, not a section"),
        ("train.steps=[", "the value '[' of an override is not valid YAML"),
        ("run.name=7", "got 7; quote it: 'run.name=\"...\"'"),
        ("run.name=../x", "run.name: String should match pattern"),
    ],
)
def test_a_bad_override_is_one_clear_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("nano", overrides=[override])

    assert sentence in str(caught.value)


def test_every_bad_field_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"train": {"steps": -1, "colour": 1}})

    assert "train.steps" in str(caught.value)
    assert "train.colour: unknown key" in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gen-searcher-8b'"):
        load_config("gensearcher-8b")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "a: \xff"])
def test_a_broken_recipe_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="latin-1")

    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(str(path))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("train:\n  steps: 1\n  group_size: 4\n  steps: 2\n")

    with pytest.raises(ConfigError, match=r"twice\.yaml: 'steps' stands twice .* lines 2 and 4"):
        load_config(str(path))


def test_a_missing_secret_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENSEARCHER_TEST_KEY", raising=False)
    assert not has_secret("GENSEARCHER_TEST_KEY")
    with pytest.raises(ConfigError, match="GENSEARCHER_TEST_KEY is not set"):
        secret("GENSEARCHER_TEST_KEY")

    monkeypatch.setenv("GENSEARCHER_TEST_KEY", "k")
    assert secret("GENSEARCHER_TEST_KEY") == "k"


def test_the_ray_address_is_the_recipes_else_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_address(Config()) is None

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray_address(Config()) == "10.0.0.1:6379"
    assert ray_address(build_config({"cluster": {"address": "auto"}})) == "auto"


def test_the_run_folder_is_root_and_name() -> None:
    config = Config.model_validate({"run": {"name": "a", "root": "/tmp/r"}})

    assert config.run_dir == Path("/tmp/r/a")


def test_a_buffer_as_long_as_the_context_is_refused() -> None:
    sections = {"learner": {"overlong_buffer": 100}, "rollout": {"max_context": 100}}
    with pytest.raises(ConfigError, match=r"overlong_buffer is 100, .* which is 100"):
        build_config(sections)
    build_config(sections | {"rollout": {"max_context": 101}})


def test_adapters_for_an_engine_of_several_processes_are_refused() -> None:
    sections = {"learner": {"lora_rank": 8}, "rollout": {"tensor_parallel": 2}}
    with pytest.raises(ConfigError, match=r"lora_rank is 8 .*tensor_parallel is 2, .* set"):
        build_config(sections)
    build_config(sections | {"rollout": {"tensor_parallel": 1}})
    build_config(sections | {"learner": {"lora_rank": None}})


def test_a_correction_that_corrects_nothing_is_refused() -> None:
    settings = {"correct_on_policy": True, "correction": "none"}
    with pytest.raises(ConfigError, match=r"correct_on_policy=true corrects nothing .* masked"):
        build_config({"learner": settings})
    build_config({"learner": settings | {"sequence_band": [0.99, 1.01]}})


def test_a_deterministic_run_names_every_setting_that_stands_against_it() -> None:
    assert load_config("nano", overrides=["run.deterministic=true"]).run.deterministic
    changes = ["train.max_staleness=1", "learner.dtype=bfloat16", "tools.pages=fetch"]
    with pytest.raises(ConfigError) as caught:
        load_config("nano", overrides=["run.deterministic=true", *changes])
    for clause in (
        "train.max_staleness must be 0",
        "learner.dtype must be float32",
        "tools.mode must be replay",
    ):
        assert clause in str(caught.value)
    assert "policy.dtype" not in str(caught.value)
    summarised = ["run.deterministic=true", "tools.summariser.model=reader"]
    with pytest.raises(ConfigError, match=r"no tools\.summariser"):
        load_config("nano", overrides=summarised)
    for world in ([changes[2]], summarised):
        load_config("nano", overrides=["run.deterministic=true", "tools.mode=replay", *world])
