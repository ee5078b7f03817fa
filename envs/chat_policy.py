"""A policy behind an OpenAI-compatible chat endpoint: the one episode loop, played by any model.

In: a turn's tokens and images, as any policy gets them; they are read back as chat messages (the
frame of the chat format is made of control tokens, which no text can forge). Out: the reply as
tokens of the same chat format. Raises InfraError after the endpoint's own retries.

The tokens are the format's, not the model's, and there are no log-probabilities: each is NaN, so
such a trajectory is for evaluation and serving only, and a training sample refuses it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from core.chat_completions import ChatReply, Message, OpenAIChat, Part, Picture
from core.errors import InfraError
from core.protocols import Generated, GenerateRequest, ImageStore
from core.records import Completion, FinishReason, RolloutId, SeenImage
from envs.chat import IMAGE, START, STOP, ChatFormat

ROLES = ("system", "user", "assistant")


class ChatPolicy:
    """Implements core.protocols.Policy."""

    def __init__(self, model: OpenAIChat, *, chat: ChatFormat, images: ImageStore) -> None:
        """`model` raises InfraError."""
        self._model = model
        self.chat = chat
        self._images = images
        self._spent_usd: Counter[RolloutId] = Counter()

    async def generate(self, request: GenerateRequest) -> Generated:
        sampling = request.sampling
        text = self.chat.decode(request.engine_ids)

        def read(reply: ChatReply) -> ChatReply:
            self._spent_usd[request.rollout_id] += reply.cost_usd  # type: ignore[assignment]
            return _refuse_silence(reply)

        reply = await self._model.converse(
            list(read_messages(text, request.images, self._images)),
            max_tokens=request.max_tokens,
            read=read,
            sampling={
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": sampling.seed,
            },
        )
        cut = reply.finish_reason == "length"
        whole = [*self.chat.encode_reply(reply.text), *(() if cut else (self.chat.stop_id,))]
        token_ids = tuple(whole[: request.max_tokens])
        is_cut = cut or len(token_ids) < len(whole)
        completion = Completion(
            token_ids=token_ids,
            logprobs=(math.nan,) * len(token_ids),
            finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
            sampling=sampling,
            policy_versions=(),
        )
        prompt_ids = self.chat.expand(request.engine_ids, request.images)
        return Generated(prompt_ids=tuple(prompt_ids), completion=completion)

    def take_cost_usd(self, rollout_id: RolloutId) -> float:
        """What the episode's turns cost; forgotten with this."""
        return float(self._spent_usd.pop(rollout_id, 0))


def _refuse_silence(reply: ChatReply) -> ChatReply:
    if not reply.text.strip():
        raise InfraError("the endpoint sent an empty completion", error_type="BadReply")
    return reply


def read_messages(text: str, images: Sequence[SeenImage], store: ImageStore) -> Iterator[Message]:
    """The messages of a decoded context; the open header of the next completion is left off."""
    left = iter(images)
    for piece in text.split(START)[1:]:
        role, _, rest = piece.partition("\n")
        content = rest.partition(STOP)[0]
        if role == "assistant" and not content:
            continue
        if role not in ROLES:
            raise InfraError(f"the context holds a message of {role[:40]!r}", retryable=False)
        yield role, list(_parts(content, left, store))


def _parts(content: str, images: Iterator[SeenImage], store: ImageStore) -> Iterator[Part]:
    """Text and images in order, each image in its place; never nothing at all."""
    words, *more = content.split(IMAGE)
    if words or not more:
        yield words
    for words in more:
        ref = next(images).ref
        yield Picture(data=store.get(ref), media_type=ref.media_type)
        if words:
            yield words
