"""Gymnasium environments: dreams, and the real games with the same spaces. Each is loaded on first use.

This way real games do not load torch, and dreams do not load ale_py.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diamond_gym.envs.atari import RealEnv, RealVectorEnv
    from diamond_gym.envs.dream_env import DreamEnv
    from diamond_gym.envs.vector_env import DreamVectorEnv, EnvState

__all__ = ["DreamEnv", "DreamVectorEnv", "EnvState", "RealEnv", "RealVectorEnv"]

_MODULES = {
    "DreamEnv": "dream_env",
    "DreamVectorEnv": "vector_env",
    "EnvState": "vector_env",
    "RealEnv": "atari",
    "RealVectorEnv": "atari",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"diamond_gym.envs.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'diamond_gym.envs' has no attribute '{name}'")
