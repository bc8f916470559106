"""The real games, with exactly the dream's spaces: ALE behind the preprocessing of Atari 100k (DIAMOND, section 3).

Frame skip 4, maximum of the last two frames, up to 30 no-ops at reset, RGB by area interpolation to 64×64, no
sticky actions, the game's minimal set of actions. The only module that imports ale_py.
"""

from typing import Any

from diamond_gym.errors import DiamondGymError
from diamond_gym.registry.games import game as find_game

SIZE = 64
FRAME_SKIP = 4
_MISSING = "the real games need ale_py and opencv; install them with: pip install \"diamond-gym[atari]\""


def ale_vector(
    game: str,
    num_envs: int,
    *,
    autoreset_mode: str = "NextStep",
    life_loss_ends: bool = False,
    noop_max: int = 30,
    num_threads: int = 0,
) -> Any:
    """ALE's native batch of games, preprocessed; frames come as uint8 (num_envs, 1, 64, 64, 3).

    With `life_loss_ends`, `terminated` also tells the loss of a life, while the game goes on without a reset.
    """
    ale_id = find_game(game).ale_id
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ModuleNotFoundError as error:
        raise DiamondGymError(_MISSING) from error
    return AtariVectorEnv(
        ale_id,
        num_envs,
        num_threads=num_threads,
        autoreset_mode=autoreset_mode,
        img_height=SIZE,
        img_width=SIZE,
        grayscale=False,
        stack_num=1,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=noop_max,
        life_loss_info=life_loss_ends,
        repeat_action_probability=0.0,
        full_action_space=False,
        reward_clipping=False,
        use_fire_reset=False,
    )
