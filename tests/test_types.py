"""What type checkers and editors see of the package from outside: types, and the words that arguments take."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import diamond_gym
from diamond_gym.envs.checks import Quality
from diamond_gym.registry.loading import Precision
from diamond_gym.sampler import QUALITIES, SamplerConfig
from diamond_gym.schema import SAMPLER, SamplerFields
from diamond_gym.two_stage import TWO_STAGE_QUALITIES

USE = """
from typing import assert_type
import diamond_gym
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.envs import DreamEnv; from diamond_gym.envs import DreamVectorEnv
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.world_model import WorldModel

model = diamond_gym.load_world_model("Breakout", precision="float32")
assert_type(model, WorldModel)
assert_type(model.denoiser, Denoiser)
assert_type(model.reward_end, RewardEnd | None)
DreamEnv(game="Breakout", quality="fast", precision="auto")
DreamVectorEnv(game="Breakout", autoreset_mode="SameStep", obs_dtype="float32")
diamond_gym.load_world_model("Breakout", precision="float16")  # error
DreamEnv(quality="best")  # error
DreamVectorEnv(autoreset_mode="never")  # error
diamond_gym.nothing  # error
"""


def test_a_model_is_loaded_by_a_function_with_types() -> None:
    assert inspect.isfunction(diamond_gym.load_world_model)
    signature = inspect.signature(diamond_gym.load_world_model)
    assert signature.return_annotation == "WorldModel"
    assert signature.parameters["precision"].annotation == Precision
    assert not hasattr(diamond_gym, "__getattr__")  # it would make every name Any


def test_the_words_are_those_that_are_taken() -> None:
    assert set(get_args(Quality)) == {*QUALITIES, *TWO_STAGE_QUALITIES}


def test_a_samplers_fields_are_known_wherever_they_are_named() -> None:
    fields = {field.name for field in dataclasses.fields(SamplerConfig)}
    assert set(SAMPLER) == fields, "what cards may hold"
    assert set(SamplerFields.__annotations__) - {"upsampler"} == fields, "what type checkers let environments take"


@pytest.mark.slow
def test_mypy_sees_types_and_wrong_words(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(USE)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(root)},
    )
    expected = {str(number) for number, line in enumerate(USE.splitlines(), 1) if line.endswith("# error")}
    assert set(re.findall(r"^use\.py:(\d+): error", done.stdout, flags=re.MULTILINE)) == expected, done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith(f"Found {len(expected)} errors in 1 file")
