"""Real play, collected where there is too little of it."""

from pathlib import Path
from typing import Literal

from diamond_gym.cli.progress import counting
from diamond_gym.data.episodes import EpisodeStore

TEST_SEED = 1000

PolicyName = Literal["auto", "mixed", "random", "sticky", "scripted"]
Played = Literal["mixed", "random", "sticky", "scripted"]


def played_by(policy: PolicyName, game: str) -> Played:
    """What "auto" means: scripted in Freeway, whose road random play never crosses, and mixed elsewhere."""
    if policy == "auto":
        return "scripted" if game == "Freeway" else "mixed"
    return policy


def experience(folder: Path, game: str, steps: int, seed: int, policy: PolicyName = "auto") -> EpisodeStore:
    """Opens a store of real play for reading, filled up to `steps` first.

    Args:
        folder: The store's; made where there is none.
        game: What to play.
        steps: How many there have to be.
        seed: Of the play.
        policy: Who plays what is missing; what is there already stays, whoever played it.

    Raises:
        BadArgument: The policy is scripted and there is no script for the game.
    """
    if (folder / "store.json").exists() and EpisodeStore(folder).num_steps >= steps:
        return EpisodeStore(folder)  # read only: another run may be reading it too
    from diamond_gym.trainers.collect import CollectConfig, Collector, about_game

    with EpisodeStore(folder, "a", about_game(game)) as store:
        missing = steps - store.num_steps
        play = Collector(store, CollectConfig(game, policy=played_by(policy, game), seed=seed))
        with play as collector, counting(f"playing {game}", missing, "steps") as advance:
            collector.collect(missing, advance)
    return EpisodeStore(folder)
