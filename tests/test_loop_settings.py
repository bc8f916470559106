"""What the outer loop makes of its settings."""

from dataclasses import replace

import pytest
import torch
from catch_loop import OPTIMIZER, TINY, WORLD, begin, train

from diamond_gym.data import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.run import RunFolder
from diamond_gym.world_model import WorldModel


def test_learning_rates_fall_at_the_end_of_all_updates(tmp_path):
    config = replace(TINY, fit=replace(TINY.fit, decay_fraction=0.3))
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run, config)
        rates = []
        for _ in range(config.epochs):
            diamond.train_epoch()
            rates.append(diamond.world_model.optimizers["denoiser"].param_groups[0]["lr"] / OPTIMIZER.lr)
        assert diamond.world_model.step == diamond.world_model.total_steps == 9
        diamond.close()
    assert rates[:2] == [1, 1] and 0.05 < rates[-1] < rates[2] <= 1


@pytest.mark.parametrize("option", ["autoregressive_from", "reward_end_dreams_from"])
@pytest.mark.parametrize(("asked", "settled"), [(0.0, 0.0), (0.3, 0.3), (0.4, 1 / 3), (0.9, 1 / 3), (1.0, 1.0)])
def test_what_begins_late_begins_by_the_end_of_the_first_epoch(option, asked, settled):
    """Three of nine updates are the first epoch's; 1 is never."""
    fit = replace(TINY.fit, num_autoregressive_steps=1, **{option: asked})
    assert getattr(replace(TINY, fit=fit).for_game(WORLD.about).fit, option) == settled


def test_rewards_of_recordings_end_the_first_collection(whole, tmp_path):
    recorded = EpisodeStore(whole[0] / "experience")
    assert sum(abs(float(episode.rew.sum())) for episode in recorded) >= TINY.first_rewards
    config = replace(TINY, first_steps=recorded.num_steps, first_steps_at_most=90, real_steps=90)
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), data=recorded)
        assert diamond.train_epoch()["real/steps"] == recorded.num_steps
        diamond.close()


@pytest.mark.parametrize(("num_envs", "age_of"), [(1, "episodes"), (4, "steps")])
def test_age_is_of_steps_where_games_run_side_by_side(num_envs, age_of):
    assert replace(TINY, num_envs=num_envs).for_game(WORLD.about).fit.age_of == age_of
    assert (
        replace(TINY, num_envs=4, fit=replace(TINY.fit, age_of="episodes")).for_game(WORLD.about).fit.age_of
        == "episodes"
    )


def test_every_epoch_dreams_by_the_kernels_where_there_are_any(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(WorldModel, "use_kernels", lambda model: asked.append(model.num_actions))
    train(tmp_path, 2)
    assert asked == [WORLD.about.num_actions] * 2


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("fit.denoiser.inner_model", "num_extra_images", 1, "--denoiser.inner-model.num-extra-images .* be 0, not 1"),
        ("fit.denoiser.inner_model", "img_channels", 1, "--denoiser.inner-model.img-channels .* be 3, not 1"),
        ("fit.denoiser.inner_model", "num_actions", 7, "--denoiser.inner-model.num-actions .* be 3, not 7"),
        ("fit.denoiser", "upsampling_factor", 2, "--denoiser.upsampling-factor .* be None, not 2"),
        ("fit.reward_end", "img_size", 32, "--reward-end.img-size .* be 16, not 32"),
        ("fit.reward_end", "img_width", 20, "--reward-end.img-width .* be None, not 20"),
        ("fit.reward_end", "num_actions", 7, "--reward-end.num-actions .* be 3, not 7"),
        ("fit.upsampler.denoiser.inner_model", "num_actions", 7, "--upsampler.denoiser.inner-model.num-actions"),
        ("fit.upsampler.denoiser.inner_model", "num_extra_images", 2, "--upsampler.denoiser.inner-model.num-extra"),
        ("fit.upsampler.denoiser", "upsampling_factor", 3, "--upsampler.denoiser.upsampling-factor"),
        ("agent.network", "img_size", 32, "--network.img-size .* be 16, not 32"),
        ("agent.network", "img_channels", 1, "--network.img-channels .* be 3, not 1"),
        ("agent.network", "num_actions", 7, "--network.num-actions .* be 3, not 7"),
    ],
)
def test_what_follows_from_the_world_cannot_be_set_otherwise(part, field, value, message):
    def changed(config, path, value):
        name, _, below = path.partition(".")
        return replace(config, **{name: changed(getattr(config, name), below, value) if below else value})

    with pytest.raises(BadArgument, match=f"{message}.*: leave it out"):
        changed(TINY, f"{part}.{field}", value).for_game(WORLD.about)
    settled = TINY.for_game(WORLD.about)
    assert settled.for_game(WORLD.about) == settled, "what it says anyway is no contradiction"


def test_frames_need_not_be_square():
    config = TINY.for_game(replace(WORLD.about, frame_shape=(16, 20, 3)))
    agent, frames = ActorCritic(config.agent.network), torch.zeros(2, 3, 16, 20)
    assert agent.config.frame_shape == (16, 20, 3)
    logits, value, _ = agent(frames, agent.initial_state(2))
    assert (logits.shape, value.shape) == ((2, WORLD.about.num_actions), (2,))
    reward_end = RewardEnd(config.fit.reward_end)
    films = frames[:, None].expand(2, 3, 3, 16, 20)
    act = torch.zeros(2, 3, dtype=torch.int64)
    assert reward_end(films, act, films)[0].shape == (2, 3, 3)
