"""Token ids that travel as bytes come back as they went."""

import pickle
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from core.wire import pack_rows, unpack_rows
from tests.builders import make_trajectory

ROWS = st.lists(st.lists(st.integers(0, 3), max_size=4).map(tuple), max_size=8)


@given(ROWS)
def test_rows_come_back(rows: list[tuple[int, ...]]) -> None:
    assert unpack_rows(pack_rows(rows)) == rows


def test_a_row_that_begins_another_has_no_ids_of_its_own() -> None:
    packed = pack_rows([(7, 8, 9), (7, 8), (8,), (7, 8, 9)])

    assert [len(ids) for _, _, ids in packed] == [12, 0, 4, 0]


def test_a_long_episode_travels_as_its_last_prompt() -> None:
    turn = make_trajectory().turns[0]
    prompt = tuple(range(1000, 13_000))
    turns = tuple(
        replace(turn, prompt_ids=prompt[: 1200 * n], engine_ids=prompt[: 1200 * n])
        for n in range(1, 11)
    )
    trajectory = replace(make_trajectory(), turns=turns)

    sent = pickle.dumps(trajectory)

    assert pickle.loads(sent) == trajectory
    assert len(sent) < 2 * 4 * len(prompt)
