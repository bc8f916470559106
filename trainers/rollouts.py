"""Rollouts of real play, and of dreams that go on from the same frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diamond_gym.actions import ActionCodec
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import cut, windows
from diamond_gym.dream import Dream
from diamond_gym.frames import to_pixels
from diamond_gym.sampler import SamplerConfig
from diamond_gym.starts import Starts
from diamond_gym.trainers.games import Games
from diamond_gym.trainers.policies import MakePolicy, Policy
from diamond_gym.two_stage import TwoStageDream, TwoStageSampler, in_two_sizes, shrink_planes
from diamond_gym.world_model import WorldModel

Progress = Callable[[int], None]
WARM_UP = 60
"""Steps of a game, at most, after which rollouts begin, unless more is asked for."""
_BATCH = 32


@dataclass(frozen=True)
class Rollouts:
    """N pieces of play, real or dreamed: T frames to begin from, and H steps after them.

    Attributes:
        obs: uint8 (N, T + H, C, H, W).
        act: The action between each two frames as the networks take it, int64 (N, T + H - 1) or (N, T + H - 1, A).
        rew: float32 (N, H), signs of the rewards of the last H steps.
        end: bool (N, H), whether they ended the episode (in real games a lost life does).
        going: bool (N, H), false from the step on in which a new game began.
        rew_prob: float32 (N, H, 3), the chances that a dream gave to the signs -1, 0, 1.
        end_prob: float32 (N, H), the chance that it gave to an end.
        low_res: Of dreams of two stages, the small frames, uint8 (N, T + H, C, h, w); of `obs`, the large ones.
    """

    obs: npt.NDArray[np.uint8]
    act: npt.NDArray[Any]
    rew: npt.NDArray[np.float32]
    end: npt.NDArray[np.bool_]
    going: npt.NDArray[np.bool_] | None = None
    rew_prob: npt.NDArray[np.float32] | None = None
    end_prob: npt.NDArray[np.float32] | None = None
    low_res: npt.NDArray[np.uint8] | None = None

    @classmethod
    def held_out(cls, store: EpisodeStore, n: int, t: int, horizon: int, seed: int = 0) -> "Rollouts":
        """Draws n windows of `horizon` steps after T frames, uniformly over a store of held-out episodes.

        The horizon lies in one episode, as does the frame before it; those before may be of earlier lives.
        """
        steps = t + horizon - 1
        chosen = windows(store, n, steps, seed, past=t - 1)
        # one more, for the frame after the last step
        batch = cut(store, chosen.episode, chosen.start, steps + 1, across_lives=True)
        ending = batch.final_index == steps - 1
        batch.obs[ending, -1] = batch.final_obs[ending]
        after = slice(t - 1, steps)
        return cls(batch.obs, batch.act[:, :-1], np.sign(batch.rew[:, after]), batch.end[:, after])

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Rollouts":
        parts: dict[str, Any] = {name: None if part is None else part[rows] for name, part in vars(self).items()}
        return Rollouts(**parts)

    @classmethod
    def joined(cls, pieces: Sequence["Rollouts"]) -> "Rollouts":
        """All rollouts of several of the same number of steps; what one of them lacks is left out."""
        parts: dict[str, Any] = {}
        for name in vars(pieces[0]):
            each = [getattr(piece, name) for piece in pieces]
            parts[name] = None if any(part is None for part in each) else np.concatenate(each)
        return cls(**parts)

    def cut(self, steps: int) -> "Rollouts":
        """The same without what came after so many steps."""
        t = self.num_start_frames
        parts: dict[str, Any] = {name: None if part is None else part[:, :steps] for name, part in vars(self).items()}
        return Rollouts(**parts | {"obs": self.obs[:, : t + steps], "act": self.act[:, : t - 1 + steps]})

    @property
    def num_start_frames(self) -> int:
        """How many frames a rollout begins from, T."""
        return int(self.obs.shape[1] - self.rew.shape[1])

    @property
    def last(self) -> npt.NDArray[np.uint8]:
        """The last frame before the steps, (N, 1, C, H, W)."""
        return self.obs[:, self.num_start_frames - 1 : self.num_start_frames]

    @property
    def after(self) -> npt.NDArray[np.uint8]:
        """The frames that the steps led to, (N, H, C, H, W)."""
        return self.obs[:, self.num_start_frames :]

    def small(self, size: tuple[int, int]) -> "Rollouts":
        """The same in small frames: those that were dreamed, or those made of the large ones."""
        return replace(self, obs=shrink_planes(self.obs, size) if self.low_res is None else self.low_res, low_res=None)

    @property
    def returns(self) -> npt.NDArray[np.float32]:
        """Sums of the rewards' signs up to and with the step of the first end, (N,)."""
        end = self.end if self.going is None else self.end | ~self.going
        return np.asarray(np.where(np.cumsum(end, axis=1) - end > 0, 0, self.rew).sum(axis=1), np.float32)


def dream_rollouts(
    model: WorldModel,
    real: Rollouts,
    sampler: SamplerConfig | TwoStageSampler,
    make_policy: MakePolicy | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    steps: int | None = None,
) -> Rollouts:
    """Dreams on from the first T frames of each real rollout.

    A policy with a memory is shown the earlier frames of each start first. Dreams go on after an end, as the game
    does after the loss of a life.

    Args:
        model: The world model.
        real: Real play, of two stages in large frames.
        sampler: How frames are sampled.
        make_policy: Makes a policy for a number of rows; default: the actions that were really taken (closed loop).
        seed: Seeds the policy, and row i of the dreams with seed + i.
        progress: Called with the number of frames dreamed since the last call.
        steps: How many; default: as many as really followed.
    """
    n, t = len(real), real.num_start_frames
    frames = np.ascontiguousarray(real.obs[:, :t].transpose(0, 1, 3, 4, 2))  # (N, T, H, W, C)
    batch = -(-n // -(-n // _BATCH))
    codec = model.codec if real.act.ndim > 2 else None
    whole = Starts(frames, real.act[:, : t - 1], np.zeros(n, np.bool_))
    dream = _begun_from(whole, model, batch, sampler)
    parts = []
    for first_row in range(0, n, batch):
        # the last batch may repeat the last row, which is then left out
        rows = np.arange(first_row, first_row + batch).clip(max=n - 1)
        kept = slice(0, n - first_row)
        policy = _replay(real.act[rows])
        if make_policy is not None:
            policy = make_policy(batch, np.random.default_rng([seed, first_row]))
        dream.reset(seed + first_row, start=torch.from_numpy(rows).to(model.device))
        first, columns = np.ones(batch, np.bool_), []
        for earlier in range(t - 1):
            policy(frames[rows, earlier], first)
            first = np.zeros(batch, np.bool_)
        seen = frames[rows, -1]
        for _ in range(real.rew.shape[1] if steps is None else steps):
            act = policy(seen, first)
            if codec is not None and make_policy is not None:  # which chooses among the environment's
                act = codec.encode(act)
            first = np.zeros(batch, np.bool_)
            step = dream.step(torch.from_numpy(act).to(model.device), restart=False)
            seen = to_pixels(step.obs).cpu().numpy()
            results = [part.cpu().numpy() for part in (step.rew, step.end, step.rew_prob, step.end_prob)]
            if isinstance(dream, TwoStageDream) and dream.obs_window is not None:
                results.append(to_pixels(dream.obs_window[:, -1]).cpu().numpy())
            columns.append((seen, act, *results))
            if progress is not None:
                progress(len(seen[kept]))
        parts.append([np.stack(column, axis=1)[kept] for column in zip(*columns, strict=True)])
    obs, act, rew, end, rew_prob, end_prob, *low_res = (np.concatenate(part) for part in zip(*parts, strict=True))
    result = Rollouts(
        np.concatenate((real.obs[:, :t], obs.transpose(0, 1, 4, 2, 3)), axis=1),
        np.concatenate((real.act[:, : t - 1], act), axis=1),
        rew,
        end,
    )
    if model.reward_end is not None:
        result = replace(result, rew_prob=rew_prob, end_prob=end_prob)
    if low_res:
        begun = shrink_planes(real.obs[:, :t], low_res[0].shape[2:4])
        result = replace(result, low_res=np.concatenate((begun, low_res[0].transpose(0, 1, 4, 2, 3)), axis=1))
    return result


def _begun_from(starts: Starts, model: WorldModel, batch: int, sampler: SamplerConfig | TwoStageSampler) -> Dream:
    """A batch of dreams from starts of frames that are as large as they are seen."""
    where = None, model.device, model.precision
    if model.upsampler is None:
        assert isinstance(sampler, SamplerConfig)
        return Dream(model.denoiser, model.reward_end, starts, batch, sampler, *where)
    if isinstance(sampler, SamplerConfig):
        sampler = TwoStageSampler(sampler)
    starts = in_two_sizes(starts, model.upsampler)
    return TwoStageDream(model.denoiser, model.reward_end, model.upsampler, starts, batch, sampler, *where)


def horizon_within(store: EpisodeStore, t: int, horizon: int) -> int:
    """The horizon, or what the longest episode leaves of it after T frames, at least 1."""
    return max(1, min(horizon, int(store.lengths.max(initial=0)) - t + 1))


def _replay(act: npt.NDArray[Any]) -> Policy:
    """Takes the given actions (B, T - 1 + H, ...), whatever it sees; the first call is for the first frame of T."""
    columns = iter(act.swapaxes(0, 1))
    return lambda obs, first: next(columns)


def real_rollouts(
    games: Games,
    make_policy: MakePolicy,
    t: int,
    steps: int,
    seed: int,
    codec: ActionCodec | None = None,
    warm_up: int = WARM_UP,
) -> Rollouts:
    """Plays each game for a random while, then on until T frames lie within one game, and records from there.

    They may be of several lives, as a dream's own past may be that goes on.

    Args:
        games: N games side by side.
        make_policy: Makes the policy that plays all of it.
        t: Frames to begin from, T.
        steps: Steps to record after them, H.
        seed: Seeds games and policy.
        codec: Of the actions; None where they are numbered.
        warm_up: Steps to play before, 0 to so many.
    """
    rng = np.random.default_rng([seed, steps])
    policy = make_policy(games.num_envs, rng)
    obs = games.reset(int(rng.integers(2**31 - 1024)))
    n = len(obs)
    wait = rng.integers(0, warm_up + 1, size=n)
    frames = np.zeros((n, t + steps, *obs.shape[1:]), np.uint8)
    like = np.zeros((), np.int64) if codec is None else codec.encode(codec.rest)
    act, rew = np.zeros((n, t + steps - 1, *like.shape), like.dtype), np.zeros((n, steps), np.float32)
    end, restart = np.zeros((n, steps), np.bool_), np.zeros((n, steps), np.bool_)
    # At how many frames each row's record stands; a new game begins it anew until one more than T are of the same.
    length, first = np.ones(n, np.int64), np.ones(n, np.bool_)
    frames[:, 0] = obs
    step = 0
    began = np.zeros(n, np.bool_)
    while (length < t + steps).any():
        for i in np.flatnonzero(began & (length < t + steps)):
            if length[i] > t:
                restart[i, length[i] - t] = True
            else:
                length[i] = 0
            frames[i, length[i]] = games.obs[i]
            length[i] += 1
        chosen = policy(games.obs, first)
        obs, reward, ended, truncated, over = games.step(chosen)
        first, began = ended | truncated, over
        inputs = chosen if codec is None else codec.encode(chosen)
        for i in np.flatnonzero(length < t + steps):
            if step < wait[i] and length[i] < t:
                frames[i, 0], length[i] = obs[i], 1
                continue
            at = length[i]
            frames[i, at], act[i, at - 1] = obs[i], inputs[i]
            if at >= t:
                rew[i, at - t], end[i, at - t] = np.sign(reward[i]), ended[i]
            length[i] += 1
        step += 1
    going = ~np.logical_or.accumulate(restart, axis=1)
    rew[~going] = 0
    return Rollouts(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3)), act, rew, end & going, going)
