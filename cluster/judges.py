"""Judges that are models, made from a Config where the judge actor runs: no torch, no diffusers.

One chat model per kind (`openai`, `gemini`, `served`), all behind one Endpoint, which owns rate,
places, retries and the deadline. Votes are kept in runs/<name>/verdicts.sqlite.
"""

from pathlib import Path

from core.chat_completions import ChatModel, OpenAIChat, Price
from core.config import Config
from core.endpoint import Endpoint, Limits
from core.errors import ConfigError, JudgeError
from core.gemini_chat import GeminiChat
from core.protocols import HttpClient
from core.sections.judge import JudgeConfig
from envs.http import operators_client
from envs.images import FileImageStore
from rewards.model_judge import ModelJudge
from rewards.panel import Panel
from rewards.rubrics import Rubrics, load_rubrics
from rewards.verdict_cache import VerdictCache
from rewards.wise import WiseEdition
from rewards.wise_judge import WiseJudge

OPENAI_URL = "https://api.openai.com/v1"
GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta"
VERDICTS = "verdicts.sqlite"


def open_model_judge(
    config: Config, run_dir: Path, *, api_key: str, cached: bool = True
) -> ModelJudge:
    """`cached=False`: every verdict is asked for, and paid, anew."""
    panel = open_panel(config, run_dir, api_key=api_key, cached=cached)
    return ModelJudge(panel, open_rubrics(config))


def open_wise_judge(
    config: Config, run_dir: Path, *, api_key: str, edition: WiseEdition
) -> WiseJudge:
    """Raises ConfigError for the pixel judge, which reads flags only."""
    panel = open_panel(config, run_dir, api_key=api_key)
    return WiseJudge(panel, open_rubrics(config), edition=edition)


def open_rubrics(config: Config) -> Rubrics:
    path = config.judge.prompt_file
    return load_rubrics(Path(path) if path else None)


def open_panel(
    config: Config,
    run_dir: Path,
    *,
    api_key: str,
    cached: bool = True,
    http: HttpClient | None = None,
) -> Panel:
    """`http`: a client that the caller closes; None: one for the life of the process."""
    return Panel(
        open_chat(
            config.judge,
            api_key=api_key,
            http=http or open_http(config.judge, run_name=config.run.name),
        ),
        images=FileImageStore(run_dir / "images"),
        config=config.judge,
        cache=VerdictCache(run_dir / VERDICTS) if cached else None,
    )


def open_chat(judge: JudgeConfig, *, api_key: str, http: HttpClient) -> ChatModel:
    price = Price(prompt_usd=judge.prompt_usd, completion_usd=judge.completion_usd)
    endpoint = Endpoint(
        http,
        name=f"judge {judge.model or judge.kind}",
        limits=Limits(
            per_second=judge.per_second,
            max_in_flight=judge.max_in_flight,
            timeout_s=judge.timeout_s,
            deadline_s=judge.deadline_s,
            max_tries=judge.max_tries,
        ),
        error=JudgeError,
    )
    match judge.kind:
        case "pixels":
            raise ConfigError(
                "judge.kind pixels reads flags of the nano world and has no language model; "
                "set judge.kind to openai, gemini or served"
            )
        case "openai":
            return OpenAIChat(
                endpoint,
                base_url=judge.base_url or OPENAI_URL,
                model=judge.model,
                api_key=api_key,
                error=JudgeError,
                price=price,
            )
        case "gemini":
            return GeminiChat(
                endpoint,
                base_url=judge.base_url or GEMINI_URL,
                model=judge.model,
                api_key=api_key,
                error=JudgeError,
                price=price,
            )
        case "served":
            return OpenAIChat(
                endpoint,
                base_url="served:",
                model=judge.served.path,
                api_key="",
                error=JudgeError,
                provider="served",
            )


def open_http(judge: JudgeConfig, *, run_name: str) -> HttpClient:
    if judge.kind == "served":
        from actors.served_model import (  # Ray is loaded only where it is needed
            ServedHttp,
            served_app_name,
        )

        return ServedHttp(served_app_name("judge", run_name=run_name))
    return operators_client()
