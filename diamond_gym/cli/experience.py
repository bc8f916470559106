"""Real play, collected where there is too little of it."""

from pathlib import Path

from diamond_gym.cli.progress import counting
from diamond_gym.data import EpisodeStore

TEST_SEED = 1000


def experience(folder: Path, game: str, steps: int, seed: int) -> EpisodeStore:
    """Opens a store of real play for reading, filled up to `steps` first."""
    if (folder / "store.json").exists() and EpisodeStore(folder).num_steps >= steps:
        return EpisodeStore(folder)  # read only: another run may be reading it too
    from diamond_gym.trainers.collect import CollectConfig, Collector, about_game

    with EpisodeStore(folder, "a", about_game(game)) as store:
        missing = steps - store.num_steps
        play = Collector(store, CollectConfig(game, seed=seed))
        with play as collector, counting(f"playing {game}", missing, "steps") as advance:
            collector.collect(missing, advance)
    return EpisodeStore(folder)
