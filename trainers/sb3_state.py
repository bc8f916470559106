"""An agent of Stable-Baselines3 in the midst of its training, as tensors and plain data.

SB3's own `save` keeps networks, optimizer and counters, in pickles. The steps that come next depend on more: on the
replay buffer, on the dreams, and on the random streams. All of it is here, as it is between two rollouts.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor, unwrap_vec_wrapper

from diamond_gym.dream import DreamState
from diamond_gym.envs.infos import EnvState
from diamond_gym.sb3 import DreamVecEnv
from diamond_gym.trainers.sb3_agents import RealVecEnv
from diamond_gym.trainers.sb3_replay import cut_replay, load_replay_state, replay_state

# Those of all algorithms, and DQN's: its target network is renewed by the one, the other is its exploration.
_COUNTERS = ("num_timesteps", "_episode_num", "_n_updates", "_current_progress_remaining")
_COUNTERS_OF_DQN = ("_n_calls", "exploration_rate")


def agent_state(agent: BaseAlgorithm) -> dict[str, Any]:
    """All that the next rollout depends on, between two of them; it can be read with `weights_only=True`.

    Of dreams, that is everything. Of real games it is everything but the games, whose state ALE's batch keeps to
    itself.

    Args:
        agent: In environments as `diamond_gym.trainers.sb3_agents.training_envs` makes them, after a rollout.
    """
    state = {
        "counters": {name: getattr(agent, name) for name in _counters(agent)},
        "parameters": agent.get_parameters(),
        "episodes": [(float(episode["r"]), int(episode["l"])) for episode in agent.ep_info_buffer or ()],
        "dreams": _dreams_state(agent),
        "chance": _chance(agent),
    }
    if isinstance(agent, OffPolicyAlgorithm):
        assert agent.replay_buffer is not None
        frame = _bridge(agent).observation_space.shape or ()
        state["replay"] = replay_state(agent.replay_buffer, frame[-1])
    return state


def load_agent_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Puts a new agent, made with the same settings in as many dreams of the same model, where another one was.

    The same steps follow as did then: on a CPU bit for bit, with the same number of threads. Real games begin anew,
    other ones than at the beginning of the training.
    """
    for name in _counters(agent):
        setattr(agent, name, state["counters"][name])
    agent.set_parameters(state["parameters"], device=agent.device)
    episodes = ({"r": score, "l": length} for score, length in state["episodes"])
    agent.ep_info_buffer = deque(episodes, maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)
    replay = None
    if isinstance(agent, OffPolicyAlgorithm):
        replay = agent.replay_buffer
        assert replay is not None
        load_replay_state(replay, state["replay"])
    if state["dreams"] is not None:
        _load_dreams_state(agent, state["dreams"])
    else:
        _envs(agent).seed((agent.seed or 0) + agent.num_timesteps)
        if replay is not None:
            cut_replay(replay)
    _load_chance(agent, state["chance"])


def _counters(agent: BaseAlgorithm) -> tuple[str, ...]:
    return _COUNTERS + (_COUNTERS_OF_DQN if isinstance(agent, OffPolicyAlgorithm) else ())


def _envs(agent: BaseAlgorithm) -> VecEnv:
    assert agent.env is not None
    return agent.env


def _bridge(agent: BaseAlgorithm) -> DreamVecEnv:
    bridge = _envs(agent).unwrapped
    assert isinstance(bridge, DreamVecEnv)
    return bridge


def _monitor(agent: BaseAlgorithm) -> VecMonitor:
    monitor = unwrap_vec_wrapper(_envs(agent), VecMonitor)
    assert monitor is not None
    return monitor


def _dreams_state(agent: BaseAlgorithm) -> dict[str, Any] | None:
    """The dreams and what SB3's wrappers remember of them; None for real games."""
    bridge, monitor = _bridge(agent), _monitor(agent)
    if isinstance(bridge, RealVecEnv):
        return None
    dream = dict(vars(bridge.envs.clone_state(include_rng=True).dream))
    del dream["fingerprint"]  # which is also of the agent that lies beside the model, and may be another by then
    assert isinstance(agent._last_obs, np.ndarray)
    assert agent._last_episode_starts is not None
    arrays = {
        "seen": np.ascontiguousarray(np.moveaxis(agent._last_obs, 1, -1)),  # (B, H, W, C × frame_stack)
        "begins": agent._last_episode_starts,
        "returns": monitor.episode_returns,
        "lengths": monitor.episode_lengths,
    }
    return {"dream": dream, **{name: torch.from_numpy(array) for name, array in arrays.items()}}


def _load_dreams_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    envs, monitor = _bridge(agent).envs, _monitor(agent)
    envs.take_over(EnvState(DreamState(fingerprint={}, **state["dream"]), np.zeros(envs.num_envs, np.bool_)))
    seen, begins, monitor.episode_returns, monitor.episode_lengths = (
        state[name].numpy() for name in ("seen", "begins", "returns", "lengths")
    )
    stack = unwrap_vec_wrapper(_envs(agent), VecFrameStack)
    if stack is not None:
        stack.stacked_obs.stacked_obs = seen
    # A view, as SB3 has it: networks round differently where the same numbers lie in another order.
    agent._last_obs, agent._last_episode_starts = np.moveaxis(seen, -1, 1), begins


def _chance(agent: BaseAlgorithm) -> dict[str, Any]:
    """The random streams that SB3 draws from: torch's and NumPy's own, and that of the actions."""
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002  (it is the one that SB3 draws from)
    key = torch.from_numpy(numpys["state"]["key"].astype(np.int64))
    chance = {
        "torch": torch.get_rng_state(),
        "numpy": {**numpys, "state": {**numpys["state"], "key": key}},
        "actions": agent.action_space.np_random.bit_generator.state,
    }
    if agent.device.type == "cuda":
        chance["cuda"] = torch.cuda.get_rng_state(agent.device)
    return chance


def _load_chance(agent: BaseAlgorithm, chance: Mapping[str, Any]) -> None:
    torch.set_rng_state(chance["torch"])
    if agent.device.type == "cuda" and "cuda" in chance:
        torch.cuda.set_rng_state(chance["cuda"], agent.device)
    numpys = chance["numpy"]
    key = numpys["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpys, "state": {**numpys["state"], "key": key}})  # noqa: NPY002
    agent.action_space.np_random.bit_generator.state = chance["actions"]
