"""A real vLLM on CPU as the judge: as an OpenAI server over HTTP, and served by Ray Serve.

The nano policy is no judge: its grades mean nothing. What is shown is that images arrive, that
decoding by the reply's schema gives valid JSON from any model, and that grades are on the scale.
"""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.served_app import delete_app
from actors.served_model import ServedHttp, deploy_model
from cluster.judges import open_panel
from core.config import Config, build_config
from core.errors import JudgeError
from core.protocols import HttpClient
from core.records import Task
from envs.http import AiohttpClient
from envs.images import FileImageStore
from rewards.model_judge import ModelJudge
from rewards.replies import IMAGE_SCALE, TEXT_SCALE
from rewards.rubrics import Rubrics
from tests.builders import make_answer, make_task, png_bytes

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent.parent
POLICY = str(ROOT / "models/nano/policy")
PATIENCE_S = 300.0
"""A verdict may be 4,096 tokens of babble, and the machine busy."""
JUDGE = {
    **{"kind": "openai", "model": "nano", "api_key_env": "", "max_tokens": 4096},
    **{"timeout_s": PATIENCE_S, "max_tries": 2},
}
DECODING = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""As actors/vllm_chat.py decodes: else a weak model writes white space until it is cut."""
SERVED = {
    **{"path": POLICY, "dtype": "float32", "max_context": 8192, "max_images": 4},
    **{"num_cpus_per_replica": 0.2, "kv_cache_gib": 0.25, "max_ongoing": 4},
}


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [
        # What `vllm serve` runs; that command itself does not start from the CPU package.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", POLICY),
        *("--served-model-name", "nano"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
        *("--max-model-len", "8192", "--max-num-seqs", "4", "--enforce-eager"),
        *("--kv-cache-memory-bytes", str(256 << 20), "--no-enable-chunked-prefill"),
        *("--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--generation-config", "vllm"),
        *("--structured-outputs-config", DECODING),
    ]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)
        try:
            _wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + 600
    while time.monotonic() < give_up and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"vllm serve did not start: {log.read_text(errors='replace')[-3000:]}")


def judge_of(config: Config, folder: Path, *, http: HttpClient) -> tuple[ModelJudge, Task]:
    store = FileImageStore(folder / "images")
    panel = open_panel(config, folder, api_key="", cached=False, http=http)
    return ModelJudge(panel, Rubrics()), make_task(ground_truth=store.put(png_bytes((0, 200, 0))))


async def both_verdicts(judge: ModelJudge, task: Task, folder: Path) -> None:
    store = FileImageStore(folder / "images")
    drawn = store.put(png_bytes((200, 0, 0)))
    image, text = await asyncio.gather(
        judge.judge_image(task=task, image=drawn),
        judge.judge_text(task=task, answer=make_answer(chosen=[drawn])),
    )
    assert image.faithfulness in IMAGE_SCALE
    assert image.visual_correctness in IMAGE_SCALE
    assert image.text_accuracy is None or image.text_accuracy in IMAGE_SCALE
    assert text.value in TEXT_SCALE
    assert image.took.tokens > 0


async def test_a_vllm_server_gives_verdicts_by_the_schema(server_url: str, tmp_path: Path) -> None:
    http = AiohttpClient(may_connect=lambda address: True)
    config = build_config({"judge": {**JUDGE, "base_url": server_url}})
    judge, task = judge_of(config, tmp_path, http=http)
    await both_verdicts(judge, task, tmp_path)

    prompt_tokens = [
        await _prompt_tokens(http, server_url, num_images=number) for number in (0, 1, 2)
    ]
    per_image = prompt_tokens[1] - prompt_tokens[0]
    assert per_image > 0, "the image reached the model"
    assert prompt_tokens[2] - prompt_tokens[1] == per_image
    await http.close()


async def test_without_the_schema_a_model_that_babbles_is_a_judge_error(
    server_url: str, tmp_path: Path
) -> None:
    http = AiohttpClient(may_connect=lambda address: True)
    judge_config: dict[str, Any] = {**JUDGE, "base_url": server_url, "json_schema": False}
    config = build_config({"judge": judge_config | {"max_tokens": 64}})
    judge, task = judge_of(config, tmp_path, http=http)
    with pytest.raises(JudgeError, match="no verdict"):
        await judge.judge_text(task=task, answer=make_answer())
    await http.close()


@pytest.mark.ray
async def test_a_model_that_the_run_serves_gives_the_same_kind_of_verdict(
    ray_cluster: str, tmp_path: Path
) -> None:
    config = build_config({"judge": {**JUDGE, "kind": "served", "served": SERVED}})
    await asyncio.to_thread(deploy_model, config.judge.served, app_name="served-test")
    try:
        http = ServedHttp("served-test")
        judge, task = judge_of(config, tmp_path, http=http)
        assert judge.name == f"served:{POLICY}"
        await both_verdicts(judge, task, tmp_path)
        too_long = {"messages": [{"role": "user", "content": "flag " * 20_000}], "max_tokens": 8}
        refused = await http.request(
            "POST", "served:", json_body=too_long, timeout_s=PATIENCE_S, max_bytes=1 << 20
        )
        assert refused.status == 400, "not a fault to be asked again"
    finally:
        await asyncio.to_thread(delete_app, "served-test")


async def _prompt_tokens(http: AiohttpClient, url: str, *, num_images: int) -> int:
    """As the server counts them for one word and some pictures."""

    data = base64.b64encode(png_bytes()).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [{"type": "text", "text": "flag"}, *[picture] * num_images]
    body = {
        "model": "nano",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": content}],
    }
    response = await http.request(
        "POST", f"{url}/chat/completions", json_body=body, timeout_s=PATIENCE_S, max_bytes=1 << 20
    )
    assert response.status == 200, response.body
    tokens: int = json.loads(response.body)["usage"]["prompt_tokens"]
    return tokens
