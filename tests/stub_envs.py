"""Environments that dream with the stub, and the equality of all that environments return."""

import numpy as np
from gymnasium.vector import AutoresetMode
from stubs import StubWorldModel

from diamond_gym.envs import DreamEnv, DreamVectorEnv

MODES = list(AutoresetMode)


def vector_env(num_envs=3, end_bias=0.0, **kwargs):
    return DreamVectorEnv(model=StubWorldModel(end_bias=end_bias), num_envs=num_envs, **kwargs)


def single_env(end_bias=0.0, **kwargs):
    return DreamEnv(model=StubWorldModel(end_bias=end_bias), **kwargs)


def assert_equal(ours, theirs):
    """Deep equality, of types, dtypes and shapes too."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype == object:
            for a, b in zip(ours, theirs, strict=True):
                assert_equal(a, b)
        else:
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs
