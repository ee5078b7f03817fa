"""A policy that says what the test wrote, token by token, and a chat format's worth of checks."""

import hashlib
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from core.errors import InfraError
from core.protocols import Generated, GenerateRequest
from core.records import Completion, FinishReason, RolloutId, SeenImage, WeightUpdate
from tests.fakes.failures import FailureScript

Script = (
    Sequence[str]
    | Mapping[RolloutId, Sequence[str]]
    | Callable[[GenerateRequest], str | Awaitable[str]]
)


class Encoder(Protocol):
    """The part of envs.chat.ChatFormat that is needed to speak."""

    @property
    def stop_id(self) -> int: ...

    def encode_trusted(self, text: str) -> list[int]: ...

    def expand(self, engine_ids: Sequence[int], images: Sequence[SeenImage]) -> list[int]: ...


class ScriptedPolicy:
    """Implements core.protocols.Engine.

    `script` is one list of texts for every rollout, one list per rollout, or a function of the
    request (it may be async, so that a test can hold a turn back). A text that is longer than
    `max_tokens` is cut and ends with LENGTH. `fail_times` is keyed by RolloutId.

    Events: ("generate", rollout_id, turn) and ("apply_weights", version).
    """

    def __init__(
        self,
        chat: Encoder,
        script: Script,
        *,
        logprob: float = -0.5,
        fail_times: Mapping[Hashable, int] | None = None,
    ) -> None:
        self._chat = chat
        self._script = script
        self._logprob = logprob
        self._failures = FailureScript(fail_times)
        self._num_turns: Counter[RolloutId] = Counter()
        self._version = 0
        self.events: list[tuple[Any, ...]] = []

    @property
    def policy_version(self) -> int:
        return self._version

    async def generate(self, request: GenerateRequest) -> Generated:
        assert request.engine_ids, "an empty context"
        assert request.max_tokens > 0, "no room for a token"
        turn = self._num_turns[request.rollout_id]
        self.events.append(("generate", request.rollout_id, turn))
        if self._failures.should_fail(request.rollout_id):
            raise InfraError(f"scripted engine fault in {request.rollout_id}")
        version = self._version
        text = await self._text(request, turn)
        self._num_turns[request.rollout_id] += 1
        wanted = [*self._chat.encode_trusted(text), self._chat.stop_id]
        token_ids = tuple(wanted[: request.max_tokens])
        whole = len(token_ids) == len(wanted)
        completion = Completion(
            token_ids=token_ids,
            logprobs=(self._logprob,) * len(token_ids),
            finish_reason=FinishReason.STOP if whole else FinishReason.LENGTH,
            sampling=request.sampling,
            policy_versions=((version, 0, len(token_ids)),),
        )
        prompt_ids = self._chat.expand(request.engine_ids, request.images)
        return Generated(prompt_ids=tuple(prompt_ids), completion=completion)

    async def apply_weights(
        self, updates: Sequence[WeightUpdate], payloads: Sequence[Sequence[Any]]
    ) -> None:
        for update, payload in zip(updates, payloads, strict=True):
            self._apply(update, payload)

    def _apply(self, update: WeightUpdate, payload: Sequence[Any]) -> None:
        for chunk, part in zip(update.chunks, payload, strict=True):
            if hashlib.sha256(bytes(part)).hexdigest() != chunk.checksum:
                raise InfraError(f"weights of version {update.version} differ from their checksum")
        if update.base_version not in (None, self._version):
            raise InfraError(f"delta on version {update.base_version}, here is {self._version}")
        self._version = update.version
        self.events.append(("apply_weights", update.version))

    async def _text(self, request: GenerateRequest, turn: int) -> str:
        if callable(self._script):
            said = self._script(request)
            return await said if inspect.isawaitable(said) else said
        texts = self._script
        if isinstance(texts, Mapping):
            texts = texts[request.rollout_id]
        assert turn < len(texts), f"{request.rollout_id} asks for turn {turn} of {len(texts)}"
        return texts[turn]
