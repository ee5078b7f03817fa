"""Names: the splits share no name, and every syllable."""

from envs.nano.names import FIRST_SYLLABLES, SECOND_SYLLABLES, SPLITS, names


def test_no_name_is_in_both_splits() -> None:
    assert not set(names("train")) & set(names("heldout"))
    assert len(names("train")) == 3072
    assert len(names("heldout")) == 1024


def test_every_syllable_is_trained_on() -> None:
    for split in SPLITS:
        assert all(any(n.startswith(first) for n in names(split)) for first in FIRST_SYLLABLES)
        assert all(any(n.endswith(second) for n in names(split)) for second in SECOND_SYLLABLES)


def test_names_can_be_read_in_one_way_only() -> None:
    assert len(set(names("train") + names("heldout"))) == 64 * 64
