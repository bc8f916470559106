"""The comparison of what keeps long dreams on the data: its fits, its start noise and its tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import drift
from diamond_gym import sampler
from diamond_gym.errors import BadArgument
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.worlds import find_world

ABOUT = {"updates": 1, "batch": 2, "real_steps": 3, "windows": 4, "dreams": 5}
HEADS = {"mse_over_copy_1": 0.5, "mse_over_copy_4": 0.75, "mse_over_copy_16": 1.0}


def fit(artefacts: float, **alive: float) -> dict[str, object]:
    looks = {"dreams": 4, "artefacts": artefacts, "nearest": 2.0, "real": {}, **alive}
    return HEADS | {f"after_{h}": looks for h in drift.AFTER} | {"fit_cpu_seconds": 7.0}


def test_every_fit_changes_what_its_name_says() -> None:
    world = find_world("Pong")
    configs = {name: drift.config_of(variant, world, 4) for name, variant in drift.VARIANTS.items()}
    assert len({repr(config) for config in configs.values()}) == len(configs)
    base = configs["base"]
    assert base.denoiser.residual and base.denoiser.change_threshold and not base.past_noise
    assert base.without_rewards and base.denoiser_optimizer.batch_size == 4 and base.autoregressive_from == 0.7
    assert not configs["paper's output"].denoiser.residual and not configs["no threshold"].denoiser.change_threshold
    assert configs["noise on the past"].past_noise == 0.3 > (configs["a little noise on the past"].past_noise or 1)
    assert configs["noise on the past, level given"].denoiser.inner_model.noise_cond
    assert configs["4 autoregressive steps, late"].num_autoregressive_steps == 4
    early, noisy = configs["1 autoregressive step, early"], configs["noise on the past, level given"]
    assert configs["preset"] == replace(noisy, autoregressive_from=early.autoregressive_from), "what came out of it"


def test_the_start_noise_is_scaled_within_alone() -> None:
    def condition(*_: object) -> object:
        return lambda x, sigma: torch.zeros_like(x)

    noise, config = torch.ones(1, 3, 4, 4), SamplerConfig(num_denoising_steps=2)
    with drift.scaled_start():
        from diamond_gym import dream_state

        assert dream_state.sample(condition, None, None, noise, config)[1][0].equal(noise * config.sigma_max)
    assert dream_state.sample is sampler.sample


def test_tables_and_files_of_several_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {"Pong": {"about": ABOUT, "preset": {"0": fit(0.01, ball=0.0, player=1.0)}}}
    second = {"Pong": {"about": ABOUT, "preset": {"1": fit(0.03, ball=0.5, player=1.0)}}}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, results in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps(results))
    both = drift.read(paths)
    drift.print_tables(both)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| preset | 2 | 0.5 ± 0 | 0.75 ± 0 | 1 ± 0 | 2 ± 1.4 |") and "0.625 ± 0.18" in row
    with pytest.raises(BadArgument, match="Pong, preset, once more"):
        drift.read([paths[0], *paths])
    paths[1].write_text(json.dumps({"Pong": second["Pong"] | {"about": ABOUT | {"updates": 9}}}))
    with pytest.raises(BadArgument, match="Pong has been measured with updates = 1, not 9"):
        drift.read(paths)
