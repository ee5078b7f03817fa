"""`gensearcher sft` on the nano policy: the teacher plays, two steps, a policy to use next."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.run_folder import policy_of_checkpoint
from tests.builders import png_bytes

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_fine_tuning_on_the_teacher_leaves_a_policy(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["sft", f"run.root={tmp_path}", "sft.steps=2", "sft.batch_size=4"]
    )

    assert result.exit_code == 0, result.output
    assert "8 samples" in result.output, "the faultless teacher answers every task"
    assert "step 2/2" in result.output
    assert policy_of_checkpoint(tmp_path / "sft" / "sft" / "step_000002").name == "policy"


def test_a_published_file_is_loaded_trained_on_and_gone_on_with(tmp_path: Path) -> None:
    arguments = [
        *("sft", f"run.root={tmp_path}", f"sft.data={write_sharegpt(tmp_path)}"),
        *("sft.batch_size=4", "sft.eval_share=0.25", "train.checkpoint_every=1"),
    ]
    first = CliRunner().invoke(app, [*arguments, "sft.steps=2"])
    assert first.exit_code == 0, first.output
    assert "8 samples" in first.output

    again = CliRunner().invoke(app, [*arguments, "sft.steps=3"])

    assert again.exit_code == 0, again.output
    assert "step 2/3" not in again.output, "two steps were done already"
    assert "step 3/3" in again.output
    rows = [json.loads(line) for line in (tmp_path / "sft" / "sft.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[2]["eval_loss"] < rows[1]["eval_loss"], "the rows are much alike"
    assert policy_of_checkpoint(tmp_path / "sft" / "sft" / "step_000003").name == "policy"


def write_sharegpt(folder: Path) -> Path:
    """Eight rows in the shape of the published sft_data.json: system, user, assistant, and tool
    responses as user turns, with one <image> for each file of the row."""
    (folder / "images").mkdir()
    rows = []
    for number in range(8):
        name = f"images/{number}.png"
        (folder / name).write_bytes(png_bytes((30 * number, 90, 200 - 20 * number)))
        call = {"name": "image_search", "arguments": {"query": f"flag of Torvi {number}"}}
        answer = {"gen_prompt": "a flag", "reference_images": [{"img_id": "IMG_001", "note": "it"}]}
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": "Tools: search, image_search, browse."},
                    {"role": "user", "content": f"Draw the flag of Torvi {number}."},
                    {
                        "role": "assistant",
                        "content": f"<think>look</think><tool_call>{json.dumps(call)}</tool_call>",
                    },
                    {
                        "role": "user",
                        "content": "<tool_response>\nIMG_001: <image> a flag\n</tool_response>",
                    },
                    {
                        "role": "assistant",
                        "content": f"<think>use it</think><answer>{json.dumps(answer)}</answer>",
                    },
                ],
                "images": [name],
            }
        )
    (folder / "sft_data.json").write_text(json.dumps(rows))
    return folder / "sft_data.json"


def test_only_the_nano_world_has_a_teacher(tmp_path: Path) -> None:
    arguments = ["sft", f"run.root={tmp_path}", "tasks.source=rl_data", "tasks.path=x.json"]

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert "sft.data: none is set" in result.output
