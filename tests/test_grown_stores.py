"""A store as it was at an earlier time, read while its recordings have grown since."""

from pathlib import Path

import pytest
from stores import ABOUT, assert_same, episode, part

from diamond_gym.data import EpisodeStore
from diamond_gym.data.stores import first_steps
from diamond_gym.errors import DiamondGymError


@pytest.fixture
def grown(tmp_path: Path) -> EpisodeStore:
    """Three steps of an episode of seven, an episode of five, the other four steps, and an episode of two."""
    whole = episode(7, 1)
    with EpisodeStore(tmp_path / "store", "a", ABOUT) as store:
        store.append(part(whole, 0, 3))
        store.append(episode(5, 2))
        store.extend(0, part(whole, 3, 7))
        store.append(episode(2, 3))
    return EpisodeStore(tmp_path / "store")


def test_the_first_steps_are_the_store_of_then(grown: EpisodeStore) -> None:
    early = first_steps(grown, 8)
    assert (early.num_steps, early.lengths.tolist()) == (8, [3, 5])
    assert_same(early[0], part(episode(7, 1), 0, 3))
    assert_same(early[1], grown[1])
    assert first_steps(grown, 12).lengths.tolist() == [7, 5]
    assert early.refresh() is False and len(EpisodeStore(grown.folder)) == 3, "nothing was deleted, nor read later"
    with pytest.raises(DiamondGymError, match="has 14 steps and never had just 9"):
        first_steps(grown, 9)


def test_reading_until_a_mark_deletes_nothing(grown: EpisodeStore) -> None:
    mark = first_steps(grown, 3).mark
    assert EpisodeStore(grown.folder, until=mark).num_steps == 3
    assert EpisodeStore(grown.folder, until=grown.mark).num_steps == EpisodeStore(grown.folder).num_steps == 14
