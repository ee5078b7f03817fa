"""Task streams repeat exactly, keep training and evaluation apart, and refuse bad rows in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.benchmarks import CATEGORY_GROUPS
from core.config import Config, build_config
from core.errors import ConfigError, DataError
from envs.nano.kinds import COUNTRY_CATEGORY, GIVEN_CATEGORY, KINDS
from envs.tasks import RowTasks, load_rows, open_heldout_tasks, open_train_tasks
from tests.builders import png_bytes
from tests.fakes.images import MemoryImageStore


def make_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": 3000 + 7 * number,
        "prompt": f"Draw thing {number}.",
        "gt_image": f"images/{number}.png",
        "meta": {"category": "Biology ", "difficulty": "easy", "source": "wiki"},
        "trajectory": [],
    }
    return row | changes


def write_rows(folder: Path, rows: Any, *, name: str = "rl_data.json") -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for number in range(len(rows)):
        (folder / "images" / f"{number}.png").write_bytes(png_bytes((number, 0, 0)))
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def make_config(**sections: Any) -> Config:
    return build_config(sections)


def test_a_row_keeps_its_id_and_category(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [make_row(0), make_row(1, id="abc", meta={}), make_row(2)])
    rows = load_rows(path)
    assert [row.task_id for row in rows] == ["3000", "abc", "3014"]
    assert [row.category for row in rows] == ["biology", "unknown", "biology"]
    store = MemoryImageStore()
    task = RowTasks(rows, seed=0, shuffle=False, images=store).task(0)
    assert (task.task_id, task.ordinal, task.prompt) == ("3000", 0, "Draw thing 0.")
    assert task.meta.difficulty == "easy"
    assert task.ground_truth is not None
    assert store.get(task.ground_truth) == png_bytes((0, 0, 0))


def test_images_are_read_when_their_task_is_drawn_and_once(tmp_path: Path) -> None:
    rows = load_rows(write_rows(tmp_path, [make_row(n) for n in range(4)]))
    store = MemoryImageStore()
    tasks = RowTasks(rows, seed=0, shuffle=True, images=store)
    assert store.events == []
    for ordinal in (0, 4, 0):
        tasks.task(ordinal)
    assert len(store.events) <= 2


def test_every_epoch_is_a_new_order_that_only_seed_and_ordinal_decide(tmp_path: Path) -> None:
    rows = load_rows(write_rows(tmp_path, [make_row(n) for n in range(20)]))

    def ids(ordinals: range, *, seed: int = 0) -> list[str]:
        tasks = RowTasks(rows, seed=seed, shuffle=True, images=MemoryImageStore())
        return [tasks.task(ordinal).task_id for ordinal in ordinals]

    first, second = ids(range(20)), ids(range(20, 40))
    assert sorted(first) == sorted(second) == sorted(row.task_id for row in rows)
    assert first != second
    assert ids(range(13, 27)) == (first + second)[13:27]
    assert ids(range(20), seed=1) != first


def test_held_out_rows_are_never_trained_on(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [make_row(n) for n in range(40)])
    tasks = {"source": "rl_data", "path": str(path)}
    configs = [make_config(tasks=tasks, run={"seed": seed}) for seed in (0, 1)]
    store = MemoryImageStore()
    heldout = [{t.task_id for t in open_heldout_tasks(c, images=store)} for c in configs]
    assert heldout[0] == heldout[1]
    assert len(heldout[0]) == 4
    stream = open_train_tasks(configs[0], images=store)
    trained = {stream.task(ordinal).task_id for ordinal in range(36)}
    assert len(trained) == 36
    assert trained.isdisjoint(heldout[0])


def test_one_row_cannot_serve_both(tmp_path: Path) -> None:
    config = make_config(
        tasks={"source": "rl_data", "path": str(write_rows(tmp_path, [make_row(0)]))}
    )
    with pytest.raises(DataError, match="only row"):
        open_train_tasks(config, images=MemoryImageStore())


def test_knowgen_is_for_evaluation_only(tmp_path: Path) -> None:
    rows = [make_row(n, meta={"category": "Multi-Subject-Anime"}) for n in range(3)]
    path = write_rows(tmp_path, rows, name="KnowGen-Bench.json")
    config = make_config(tasks={"source": "knowgen", "path": str(path)})
    heldout = open_heldout_tasks(config, images=MemoryImageStore())
    assert {task.meta.category for task in heldout} == {"multi-subject-anime"}
    assert len(heldout) == 3
    with pytest.raises(ConfigError, match="is a benchmark"):
        open_train_tasks(config, images=MemoryImageStore())


def test_an_older_key_names_the_ground_truth_too(tmp_path: Path) -> None:
    row = make_row(0)
    row["gen_image"] = row.pop("gt_image")
    assert load_rows(write_rows(tmp_path, [row]))[0].image_path.name == "0.png"


BAD_ROWS = [
    ({"prompt": ""}, "row 1: prompt: "),
    ({"prompt": " \n"}, "row 1: prompt: "),
    ({"prompt": None}, "row 1: prompt: "),
    ({"id": None}, "row 1: id"),
    ({"id": 3000}, "row 1: id: '3000' is also the id of .* row 0; give every row its own id"),
    ({"gt_image": ""}, "row 1: gt_image: "),
    ({"gt_image": "images/none.png"}, "row 1: gt_image: there is no file .*none.png; unpack"),
    ({"meta": {"category": 5}}, "row 1: meta.category: "),
    ({"meta": {"category": "Biolgy"}}, "row 1: meta.category: .* did you mean 'biology'"),
    ({"meta": {"category": "zzz"}}, "row 1: meta.category: .* use one of astronomy"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_mend(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    path = write_rows(tmp_path, [make_row(0), make_row(1, **changes)])
    with pytest.raises(DataError, match=f"rl_data.json {expected}"):
        load_rows(path, categories=tuple(CATEGORY_GROUPS))


@pytest.mark.parametrize("missing", ["id", "prompt", "gt_image"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    row = make_row(0)
    del row[missing]
    with pytest.raises(DataError, match=f"row 0: {missing}: Field required; mend or remove"):
        load_rows(write_rows(tmp_path, [row]))


def test_a_ground_truth_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [make_row(0)])
    (tmp_path / "images" / "0.png").write_text("<html>")
    tasks = RowTasks(load_rows(path), seed=0, shuffle=False, images=MemoryImageStore())
    with pytest.raises(DataError, match=r"row 0: gt_image: .*0\.png cannot be used.*replace"):
        tasks.task(0)


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", "null"])
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rl_data.json").write_text(content)
    with pytest.raises(DataError, match=r"rl_data\.json"):
        load_rows(tmp_path / "rl_data.json")


def test_a_missing_file_or_setting_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.path: there is no file"):
        load_rows(tmp_path / "none.json")
    config = make_config(tasks={"source": "rl_data"})
    with pytest.raises(ConfigError, match=r"tasks\.path: none is set"):
        open_train_tasks(config, images=MemoryImageStore())


def test_nano_tasks_of_training_and_evaluation_share_no_subject() -> None:
    store = MemoryImageStore()
    config = make_config(eval={"num_tasks": 40})
    stream = open_train_tasks(config, images=store)
    trained = [stream.task(ordinal) for ordinal in range(40)]
    heldout = open_heldout_tasks(config, images=store)
    assert trained == [open_train_tasks(config, images=store).task(n) for n in range(40)]
    assert [task.ordinal for task in heldout] == list(range(40))
    assert {t.prompt for t in trained}.isdisjoint(t.prompt for t in heldout)
    other = open_heldout_tasks(make_config(eval={"num_tasks": 40}, run={"seed": 9}), images=store)
    assert other == heldout


def test_every_nano_category_belongs_to_a_knowgen_group() -> None:
    categories = {kind.category for kind in KINDS} | {COUNTRY_CATEGORY, GIVEN_CATEGORY}
    assert categories <= set(CATEGORY_GROUPS)
    assert {CATEGORY_GROUPS[c] for c in categories} == {
        "science_and_knowledge",
        "pop_culture_and_news",
    }
    assert len(CATEGORY_GROUPS) == 24
