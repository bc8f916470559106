"""Dreams as Gymnasium environments: importing this package registers their ids and does not load torch.

>>> import gymnasium as gym, diamond_gym
>>> env = gym.make("DiamondDream-Breakout-v0")
>>> envs = gym.make_vec("DiamondDream-Breakout-v0", num_envs=8)  # one batched model
"""

import warnings

import gymnasium

from diamond_gym.errors import BadArgument, DamagedModel, DiamondGymError, DiskFull, ModelNotFound
from diamond_gym.registry.games import games
from diamond_gym.registry.loading import load_world_model
from diamond_gym.registry.models import survey

__version__ = "0.1.0"
__all__ = [
    "BadArgument",
    "DamagedModel",
    "DiamondGymError",
    "DiskFull",
    "ModelNotFound",
    "__version__",
    "load_world_model",
    "register_ids",
]


def register_ids() -> None:
    """Registers every id that can be made now; importing the package calls it once.

    - `DiamondDream-<Game>-v0` and `DiamondReal-<Game>-v0` for the 26 games of Atari 100k;
    - `DiamondDream-CSGO-v0`, the two-stage engine, which has to be pulled first;
    - `DiamondDream-<Game>-v0` for any other game that there is a model of;
    - `DiamondDream-<name>-v0` for each model in the user's own registry;
    - `DiamondDream-v0`, which takes any `model=`;
    - `DiamondGym/Catch-v0`, a tiny game to try things on.

    Call it again before making a model by its own id in the process that has just saved it. Ids that are already
    registered stay as they are. A damaged card is left out, with a one-line warning.
    """
    entries, problems = survey()
    for problem in problems.values():
        warnings.warn(f"diamond-gym: {problem}", stacklevel=2)
    dreams: dict[str, dict[str, str]] = {"DiamondDream-v0": {}}
    dreams |= {f"DiamondDream-{entry.name}-v0": {"model": entry.name} for entry in entries if not entry.bundled}
    dreams |= {f"DiamondDream-{entry.card.game}-v0": {"game": entry.card.game} for entry in entries}
    dreams |= {f"DiamondDream-{game}-v0": {"game": game} for game in (*games(), "CSGO")}
    reals = {f"DiamondReal-{game}-v0": {"game": game} for game in games()}

    for id, kwargs in (dreams | reals).items():
        if id in gymnasium.registry:
            continue
        dream = id in dreams
        gymnasium.register(
            id=id,
            entry_point="diamond_gym.envs:DreamEnv" if dream else "diamond_gym.envs:RealEnv",
            vector_entry_point="diamond_gym.envs:DreamVectorEnv" if dream else "diamond_gym.envs.atari:RealVectorEnv",
            # The paper's horizon for dreams that are played; -1 dreams on. `gym.make` puts its TimeLimit
            # around the environment, `gym.make_vec` passes the number on to the batch.
            max_episode_steps=50 if dream else None,
            kwargs=dict(kwargs),
        )
    if "DiamondGym/Catch-v0" not in gymnasium.registry:
        gymnasium.register(id="DiamondGym/Catch-v0", entry_point="diamond_gym.envs.catch:Catch")


register_ids()
