"""The nano teacher in the real loop leaves exactly the tokens that the nano policy trains on.

Two writers of one conversation meet here: cluster/nano/documents.py, which makes SFT documents
fast and in memory, and envs/episode.py over the real tools, search backend and processor. If they
differ by one token, the policy is trained on something else than it later sees.
"""

import random
from pathlib import Path

import pytest

from cluster.nano.documents import encode, episode
from cluster.nano.tokenizer import SYSTEM_PROMPT, save_processor
from core.records import StopReason
from envs.chat import ChatFormat
from envs.corpus import Corpus, build_corpus
from envs.episode import EpisodeLimits, run_episode
from envs.images import FileImageStore
from envs.nano.lookup import Lookup
from envs.nano.tasks import QuestStream, make_task
from envs.nano.teacher import SLOPPY
from envs.nano.world import World
from envs.prompts import system_prompt
from envs.store.library import Library
from envs.store.store import Store
from envs.toolbox import LocalToolbox
from envs.tools import BrowseTool, ImageSearchTool, SearchTool
from tests.builders import make_rollout_id
from tests.fakes.policy import ScriptedPolicy

pytestmark = pytest.mark.integration

NUM_EPISODES = 40
LIMITS = EpisodeLimits(
    max_turns=10, max_tokens_per_turn=256, max_context=2048, max_images_per_search=3
)


async def test_the_loop_and_the_documents_agree_token_by_token(tmp_path: Path) -> None:
    world = World(seed=0, num_train=24, num_heldout=4)
    store = FileImageStore(tmp_path / "images")
    build_corpus(
        tmp_path / "corpus.sqlite", pages=world.pages(), images=world.images(), store=store
    )
    provider = Corpus(tmp_path / "corpus.sqlite")
    library = Library(Store(tmp_path / "store"), run_images=store)
    tools = [
        SearchTool(library.search(provider), top_k=3),
        ImageSearchTool(library.image_search(provider), top_k=3),
        BrowseTool(library.pages(provider)),
    ]
    toolbox = LocalToolbox(tools, library)
    tokenizer = save_processor(tmp_path / "policy")
    chat = ChatFormat.load(tmp_path / "policy")
    stream, lookup = QuestStream(world, "train", seed=0), Lookup(world)
    assert system_prompt("nano", [tool.spec for tool in tools]) == SYSTEM_PROMPT

    reasons, num_images, num_played = set(), 0, 0
    for ordinal in range(NUM_EPISODES):
        quest = stream.quest(ordinal)
        spans, flags = episode(quest, lookup, habits=SLOPPY, rng=random.Random(ordinal))
        if len(set(flags)) < len(flags):
            continue  # the loop shows a picture that was found twice only once
        num_played += 1
        texts = [span.text.removesuffix("<|im_end|>") for span in spans if span.learn]
        played = await run_episode(
            make_task(quest, split="train", ordinal=ordinal, store=store),
            rollout_id=make_rollout_id(ordinal),
            policy=ScriptedPolicy(chat, texts),
            toolbox=toolbox,
            images=store,
            chat=chat,
            system_prompt=SYSTEM_PROMPT,
            limits=LIMITS,
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )
        last = played.turns[-1]
        document = encode(tokenizer, spans[:-1], flags)  # the last span is the closing newline
        assert last.prompt_ids + last.completion.token_ids == document.token_ids
        assert len(last.images) == len(flags)
        assert not any(turn.repairs for turn in played.turns)
        reasons.add(played.stop_reason)
        num_images += len(flags)
    assert reasons <= {StopReason.ANSWER, StopReason.BAD_ANSWER}
    assert num_images > 0
    assert num_played > NUM_EPISODES / 2
