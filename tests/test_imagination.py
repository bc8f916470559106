"""Imagination traced by hand in a world whose every frame, reward and end is known beforehand."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from stubs import Conditioned, StubWorldModel
from torch import nn

from diamond_gym.dream import Dream
from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.actor_critic import ActorCriticLossConfig, ActorCriticTrainer, AgentFitConfig, lambda_returns
from diamond_gym.trainers.imagination import Imagination
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder

SURE = 1e3


def level(frames):
    """Which number a frame shows: its brightness, 0..255."""
    return ((frames[..., 0, 0, 0] + 1) * 127.5).round()


class Counting(Conditioned, nn.Module):
    """Each frame shows the number after the last one's."""

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        return ((level(obs[:, -1]) + 1) / 127.5 - 1).view(-1, 1, 1, 1).expand_as(noisy)


class Paying(nn.Module):
    """An action pays itself less 1; the game ends when a multiple of ten is reached."""

    def forward(self, obs, act, next_obs, state=None):
        rew = nn.functional.one_hot(act, 3) * SURE
        end = nn.functional.one_hot((level(next_obs) % 10 == 0).long(), 2) * SURE
        nothing = torch.zeros(1, len(act), 1)
        return rew, end, (nothing, nothing)


class Counter(nn.Module):
    """Seeing n takes action n mod 3; its value is n + 100 * how many frames it remembers, this one included."""

    def initial_state(self, batch, device="cpu"):
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def forward(self, obs, state):
        hx, cx = state[0] + 1, state[1]
        n = level(obs)
        return nn.functional.one_hot(n.long() % 3, 3) * SURE, n + 100 * hx[:, 0], (hx, cx)

    def sequence(self, obs, state):
        logits, vals = [], []
        for frame in obs.unbind(1):
            logit, val, state = self(frame, state)
            logits.append(logit)
            vals.append(val)
        return torch.stack(logits, 1), torch.stack(vals, 1), state


def frames(*numbers):
    obs = np.zeros((len(numbers), 4, 4, 3), np.uint8)
    obs[:] = np.array(numbers).reshape(-1, 1, 1, 1)
    return obs


def counting_dream(num_envs, horizon):
    """Starts at 6, where every later dream begins, at 28 and at 27, each with two frames before."""
    obs = np.stack([frames(4, 5, 6), frames(26, 27, 28), frames(25, 26, 27)])
    starts = Starts(obs, np.zeros((3, 2), np.int64), np.zeros(3, bool))
    return Dream(Counting(), Paying(), starts, num_envs, SamplerConfig(num_denoising_steps=1), horizon, choice=0)


def test_two_windows_by_hand():
    """Row 0 ends in its second step, row 1 is cut in its third, row 2 ends where it would have been cut."""
    dream = counting_dream(3, horizon=3)
    dream.reset(seed=0, start=torch.tensor([1, 0, 2]))
    imagination = Imagination(Counter(), dream)
    window = imagination.window(5)
    # Frames seen: 28 29 | 6 7 8 |,  6 7 8 | 6 7,  27 28 29 | 6 7
    assert window.act.tolist() == [[1, 2, 0, 1, 2], [0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]
    assert window.rew.tolist() == [[0, 1, -1, 0, 1], [-1, 0, 1, -1, 0], [-1, 0, 1, -1, 0]]
    assert window.end.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert window.trunc.tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]
    # The first frame of a dream is the third that is remembered: two were burnt in.
    assert window.val.tolist() == [[328, 429, 306, 407, 508], [306, 407, 508, 306, 407], [327, 428, 529, 306, 407]]
    # The frames after: 29 30 | 7 8 9 |,  7 8 9 | 7 8,  28 29 30 | 7 8
    assert window.val_bootstrap.tolist() == [
        [429, 530, 407, 508, 609],
        [407, 508, 609, 407, 508],
        [428, 529, 630, 407, 508],
    ]
    gamma, lambda_ = 0.9, 0.5
    returns = lambda_returns(window.rew, window.end, window.trunc, window.val_bootstrap, gamma, lambda_)
    cut = 1 + 0.9 * 609  # cut: the value of the last frame counts as a whole
    going_on = [0 + 0.9 * 508]  # beyond the window: the same, as R after it is V
    going_on = [-1 + 0.9 * (0.5 * 407 + 0.5 * going_on[0]), *going_on]

    def before(rew, val, after):
        return rew + 0.9 * (0.5 * val + 0.5 * after)

    row0 = [before(0, 429, 1), 1, before(-1, 407, before(0, 508, cut)), before(0, 508, cut), cut]
    row1 = [before(-1, 407, before(0, 508, cut)), before(0, 508, cut), cut, *going_on]
    row2 = [before(-1, 428, before(0, 529, 1)), before(0, 529, 1), 1, *going_on]  # ended: nothing comes after
    torch.testing.assert_close(returns, torch.tensor([row0, row1, row2]))

    later = imagination.window(2)  # row 0 has begun anew, rows 1 and 2 are in the third step of a dream
    assert later.val.tolist() == [[306, 407], [508, 306], [508, 306]]
    assert later.trunc.tolist() == [[0, 0], [1, 0], [1, 0]]
    assert later.val_bootstrap.tolist() == [[407, 508], [609, 407], [609, 407]]


def uniform_numbers(seed=3):
    return partial(torch.rand, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def test_with_random_numbers_from_outside_a_dream_that_ends_waits_for_the_end_of_the_window():
    dream = counting_dream(3, horizon=3)
    dream.reset(seed=0, start=torch.tensor([1, 0, 2]))
    imagination = Imagination(Counter(), dream, uniform=uniform_numbers())
    places = [part.data_ptr() for part in imagination._memory]
    window = imagination.window(5)
    # Frames seen: 28 29 |,  6 7 8 |,  27 28 29 |
    assert window.real.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert window.act[0, :2].tolist() == [1, 2] and window.act[1:, :3].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert window.rew.tolist() == [[0, 1, 0, 0, 0], [-1, 0, 1, 0, 0], [-1, 0, 1, 0, 0]]
    assert window.end.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert window.trunc.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]
    assert window.val[1:, :3].tolist() == [[306, 407, 508], [327, 428, 529]]
    assert window.val_bootstrap[0, 0] == 429 and window.val_bootstrap[1, :3].tolist() == [407, 508, 609]
    returns = lambda_returns(window.rew, window.end, window.trunc, window.val_bootstrap, 0.9, 0.5)
    cut = 1 + 0.9 * 609
    assert returns[0, 1] == 1 and returns[2, 2] == 1
    torch.testing.assert_close(returns[1, 1], torch.tensor(0.9 * (0.5 * 508 + 0.5 * cut)))
    assert window.mean(window.act.float()) == (1 + 2 + 0 + 1 + 2 + 0 + 1 + 2) / 8, "what was not dreamed does not count"
    again = imagination.window(2)
    assert again.val.tolist() == [[306, 407]] * 3 and again.real.all(), "all have begun anew"
    assert [part.data_ptr() for part in imagination._memory] == places, "a graph reads and writes there"
    imagination.begin()
    assert imagination.dream.steps.eq(0).all()


def test_without_ends_both_kinds_of_windows_are_the_same():
    def imagination(outside):
        torch.manual_seed(0)
        fit = ActorCriticTrainer(replace(CONFIG, network=replace(CONFIG.network, img_size=8, num_actions=4)))
        nn.init.normal_(fit.agent.critic_linear.weight)
        model = StubWorldModel()
        model.reward_end = None  # nothing ends
        return Imagination(fit.agent, model.dream(3, horizon=3), 3, uniform_numbers() if outside else None)

    own, given = imagination(False), imagination(True)
    for _ in range(3):
        one, other = own.window(3), given.window(3)
        assert other.trunc[:, -1].all() and one.val.requires_grad and other.val.requires_grad
        for name, value in vars(one).items():
            if name != "real":
                torch.testing.assert_close(getattr(other, name), value)
        gradients = []
        for imagination, window in ((own, one), (given, other)):
            imagination.agent.zero_grad()
            (window.val.sum() + window.logits_act.square().sum()).backward()
            gradients.append([p.grad for p in imagination.agent.parameters()])
        torch.testing.assert_close(*gradients)


def test_a_window_of_one_step_and_dreams_without_end():
    dream = counting_dream(1, horizon=None)
    imagination = Imagination(Counter(), dream)
    vals = torch.cat([imagination.window(1).val_bootstrap for _ in range(5)], dim=1)
    assert vals.tolist() == [[407, 508, 609, 710, 407]]  # 10 ends, and was valued; after it, 7 follows 6


CONFIG = AgentFitConfig(
    ActorCriticConfig(lstm_dim=8, img_size=4, channels=[4], down=[1], num_actions=3),
    ActorCriticLossConfig(gamma=0.5),
    OptimizerConfig(lr=1e-2, weight_decay=0, warmup_steps=5, max_grad_norm=100, batch_size=8),
    horizon=5,
)


def test_gradient_stops_at_the_window():
    fit = ActorCriticTrainer(CONFIG)
    nn.init.normal_(fit.agent.critic_linear.weight)  # a head of zeros lets no gradient through
    fit.imagination = Imagination(fit.agent, counting_dream(2, horizon=None))
    first = fit.imagination.window(3)
    second = fit.imagination.window(3)
    second.val.sum().backward()
    assert fit.agent.lstm.weight_hh.grad.any()
    first.val.sum().backward()  # would have been freed by the second
    assert not first.val_bootstrap.requires_grad and first.val.requires_grad and first.logits_act.requires_grad
    # Within a window, gradient flows through the memory, but not across the beginning of another dream.
    third = Imagination(fit.agent, counting_dream(2, horizon=2)).window(3)
    fit.agent.zero_grad()
    third.val[:, 2].sum().backward()
    reached = fit.agent.lstm.weight_hh.grad.clone()
    alone = Imagination(fit.agent, counting_dream(2, horizon=2)).window(1)
    fit.agent.zero_grad()
    alone.val[:, 0].sum().backward()
    torch.testing.assert_close(reached, fit.agent.lstm.weight_hh.grad)


def test_learns_what_pays():
    fit = ActorCriticTrainer(CONFIG, seed=1)
    fit.imagination = Imagination(fit.agent, counting_dream(8, horizon=5))
    metrics = [{k: float(v) for k, v in fit.train_step().items()} for _ in range(60)]
    assert np.mean([m["agent/reward_per_step"] for m in metrics[-5:]]) > 0.9
    assert metrics[-1]["agent/policy_entropy"] < metrics[0]["agent/policy_entropy"] == pytest.approx(np.log(3))
    assert metrics[0]["agent/ends_per_step"] == pytest.approx(0.2)
    assert np.isfinite(metrics[-1]["agent/grad_norm"]) and fit.step == 60


def test_warm_up_and_clipping():
    fit = ActorCriticTrainer(CONFIG)
    fit.imagination = Imagination(fit.agent, counting_dream(8, horizon=5))
    rates = []
    for _ in range(7):
        fit.train_step()
        rates.append(fit.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2, 1e-2])
    assert [group["weight_decay"] for group in fit.optimizer.param_groups] == [0]


def stub_fit(seed=0):
    model = StubWorldModel()
    network = ActorCriticConfig(lstm_dim=8, img_size=8, channels=[4, 4], down=[1, 1], num_actions=4)
    fit = ActorCriticTrainer(AgentFitConfig(network, optimizer=CONFIG.optimizer, horizon=4), 7, seed)
    fit.imagination = Imagination(fit.agent, model.dream(3, horizon=5), seed)
    return fit


@pytest.mark.parametrize("stop_at", [0, 1, 4])
def test_resumed_training_ends_with_the_same_bits(tmp_path, stop_at):
    whole = stub_fit()
    for _ in range(whole.total_steps):
        whole.train_step()
    first = stub_fit()
    for _ in range(stop_at):
        first.train_step()
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        run.save(first.state_dict())
        torch.manual_seed(999)
        second = stub_fit(seed=5)
        second.load_state_dict(run.load())
    while second.step < second.total_steps:
        second.train_step()
    expected = whole.agent.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.agent.state_dict().items())


def test_global_randomness_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    stub_fit().train_step()
    assert torch.equal(torch.rand(1), expected)


def test_a_state_of_other_dreams_is_refused():
    fit = stub_fit()
    other = Imagination(fit.agent, StubWorldModel().dream(2))
    with pytest.raises(ValueError, match="num_envs"):
        other.load_state_dict(fit.imagination.state_dict())
