"""The arithmetic of the learner's benchmark; how fast anything is stands in no test."""

from types import SimpleNamespace

import pytest

from benchmarks.learner_batch import IMAGE_SIDE, LENGTHS, make_group, update_flops
from core.config import Config
from core.records import TrainingSample
from envs.chat import ChatFormat
from learners.batch import build_micro_batch
from learners.grpo_learner import select_samples
from learners.packing import shared_prompts
from tests.builders import make_sample
from tests.fakes.images import MemoryImageStore
from tests.tiny_model import build_tiny_policy

STORE = MemoryImageStore()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat.load(build_tiny_policy(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def samples(chat: ChatFormat) -> list[TrainingSample]:
    group = make_group(LENGTHS, chat=chat, images=STORE)
    return select_samples([group], config=Config())[0]


def test_members_have_the_lengths_that_were_asked_for(samples: list[TrainingSample]) -> None:
    assert [len(sample.token_ids) for sample in samples] == list(LENGTHS)
    assert max(LENGTHS) / min(LENGTHS) > 10


def test_members_share_half_of_the_shortest_and_each_saw_an_image(
    samples: list[TrainingSample],
) -> None:
    assert shared_prompts(samples) == {0: min(LENGTHS) // 2}
    assert all(sample.images for sample in samples)
    assert samples[0].images[0].ref.width == IMAGE_SIDE


def test_the_learner_takes_them_as_they_are(
    samples: list[TrainingSample], chat: ChatFormat
) -> None:
    batch = build_micro_batch(samples, chat=chat, images=STORE, share_prefix=True)
    assert batch.input_ids.shape[1] == sum(LENGTHS) - (len(LENGTHS) - 1) * (min(LENGTHS) // 2)


def test_flops_by_hand() -> None:
    text = SimpleNamespace(
        num_hidden_layers=2,
        hidden_size=10,
        intermediate_size=30,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=5,
        vocab_size=1000,
    )
    sample = make_sample(prompt_ids=(5, 6, 7), completion_ids=(8, 9))
    # A layer: q and o 10 x 20 each, k and v 10 x 10 each, three of 10 x 30: 1500 weights.
    matrices = 2 * 6 * 1500 * 5
    # Scores and values: 2 x 2 x 5 x 5 x 20, half of it causal, three times for both passes.
    attention = 2 * 3 * (2 * 2 * 5 * 5 * 20 // 2)
    head = 6 * 10 * 1000 * 2
    assert update_flops(SimpleNamespace(text_config=text), [sample]) == matrices + attention + head
