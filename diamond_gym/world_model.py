"""A world model: the networks of one game, on a device, ready to be dreamed in or trained."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from diamond_gym.action_spaces import codec_of_model
from diamond_gym.actions import ActionCodec
from diamond_gym.device import PRECISIONS, compile_network, is_compiled, pick_device, pick_precision
from diamond_gym.dream import Dream
from diamond_gym.dream_state import without_gradient
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.inference import fastest_precision
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.schema import parameters
from diamond_gym.starts import Starts

if TYPE_CHECKING:
    from diamond_gym.networks.actor_critic import ActorCritic
    from diamond_gym.registry.card import Card
    from diamond_gym.two_stage import TwoStageSampler

# attribute of WorldModel -> prefix of its keys in a weights file, as the released checkpoints have it
PREFIXES = {
    "denoiser": "denoiser.",
    "reward_end": "rew_end_model.",
    "actor_critic": "actor_critic.",
    "upsampler": "upsampler.",
}
COMPILED = "_orig_mod."
LARGE = 30_000_000
"""Parameters, by `diamond_gym.schema`, from which on a model is worth being built without being initialised first."""


def denoiser_config(table: Mapping[str, Any]) -> DenoiserConfig:
    """A denoiser's configuration from a card's table."""
    return DenoiserConfig(**{**table, "inner_model": InnerModelConfig(**table["inner_model"])})


def check_steps(card: "Card | None", sampler: SamplerConfig) -> None:
    """Refuses (BadArgument) several denoising steps of a student, which knows one noise level alone."""
    if card is not None and card.is_student and sampler.num_denoising_steps > 1:
        raise BadArgument(
            f"{card.name} was distilled to dream in one denoising step: its quality is fast, num_denoising_steps 1"
        )


class WorldModel(nn.Module):
    """The networks of one world model: tensors in, tensors out, on their device.

    Attributes:
        denoiser: Samples the next frame.
        reward_end: Scores transitions, or None.
        actor_critic: The agent that came with the model, or None.
        upsampler: The second stage of two-stage models, or None.
        card: The model's metadata, or None for one that was never registered.
        starts: Real frames that dreams begin from, or None.
        precision: "float32" or "bfloat16", the arithmetic of the networks in dreams.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        reward_end: RewardEnd | None = None,
        actor_critic: "ActorCritic | None" = None,
        upsampler: Denoiser | None = None,
        card: "Card | None" = None,
        starts: Starts | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.reward_end = reward_end
        self.actor_critic = actor_critic
        self.upsampler = upsampler
        self.card = card
        self.starts = starts
        self.precision = precision

    @classmethod
    def unfilled(cls, card: "Card", starts: Starts | None = None) -> Self:
        """Builds the networks a card describes, with the weights that networks begin with, on torch's default device.

        Raises:
            BadConfig: There is no network of such a configuration.
        """
        denoiser = Denoiser(denoiser_config(card.denoiser))
        reward_end = None if card.reward_end is None else RewardEnd(RewardEndConfig(**card.reward_end))
        actor_critic = None
        if card.actor_critic is not None:
            from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig

            actor_critic = ActorCritic(ActorCriticConfig(**card.actor_critic))
        upsampler = None if card.upsampler is None else Denoiser(denoiser_config(card.upsampler))
        return cls(denoiser, reward_end, actor_critic, upsampler, card, starts)

    @classmethod
    @without_gradient()
    def from_card(cls, card: "Card", weights: Mapping[str, Tensor], starts: Starts | None = None) -> Self:
        """Builds the networks a card describes and fills them, in evaluation mode on the CPU.

        Args:
            card: The model's card.
            weights: Tensors of any float type by their prefixed keys, exactly those of the networks.
            starts: Real frames for dreams to begin from.

        Raises:
            RuntimeError: A key is missing, left over or of another shape.
        """
        # To initialise wide networks takes minutes; not to has torch import its compiler, slower for small ones.
        large = parameters({name: getattr(card, name) for name in card.networks}) > LARGE
        # What they are filled with before comes from a copy of torch's global random stream, which stays where it is.
        with torch.random.fork_rng(devices=[]), torch.device("meta" if large else "cpu"):
            model = cls.unfilled(card, starts)
        if large:
            if {k: v.shape for k, v in model.weights().items()} != {k: v.shape for k, v in weights.items()}:
                raise RuntimeError("their keys or shapes differ")  # before memory is taken for what a card merely says
            model = model.to_empty(device="cpu")
        model.load_weights(weights)
        return model.eval()

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks that are there, by attribute name."""
        return {name: part for name in PREFIXES if (part := getattr(self, name)) is not None}

    def weights(self) -> dict[str, Tensor]:
        """All tensors by the keys of the released checkpoints, whether or not a network was compiled."""
        return {
            PREFIXES[name] + key.replace(COMPILED, ""): tensor
            for name, part in self.parts.items()
            for key, tensor in part.state_dict().items()
        }

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Fills the networks; the inverse of weights.

        Raises:
            RuntimeError: A key is missing, left over or of another shape.
        """
        left = dict(weights)
        for name, part in self.parts.items():
            prefix = PREFIXES[name]
            own = {key: left.pop(key) for key in list(left) if key.startswith(prefix)}
            keys = {key.replace(COMPILED, ""): key for key in part.state_dict()}
            part.load_state_dict({keys.get(k.removeprefix(prefix), k.removeprefix(prefix)): v for k, v in own.items()})
        if left:
            raise RuntimeError(f"unexpected key '{next(iter(left))}'")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.denoiser.parameters()).device

    @property
    def obs_shape(self) -> tuple[int, int, int]:
        """An observation's shape (H, W, C)."""
        if self.card is not None:
            return self.card.obs_shape
        if self.starts is None:
            raise DiamondGymError("this world model has neither a card nor starts: its image size is unknown")
        full_res = None if self.upsampler is None else self.starts.full_res
        h, w, c = (self.starts.obs if full_res is None else full_res).shape[2:]
        return h, w, c

    @property
    def codec(self) -> ActionCodec:
        """The actions: their space, and how the networks take them."""
        card = None if self.card is None else self.card.codec
        return codec_of_model(card, self.num_actions, self.starts is not None and self.starts.act.ndim == 3)

    @property
    def action_meanings(self) -> tuple[str, ...]:
        """A word for each action, or for each part of one; empty if there are none."""
        return () if self.card is None else self.card.action_meanings

    @property
    def num_actions(self) -> int:
        """The number of discrete actions, or the length of the vector that the networks take for one."""
        num_actions = self.denoiser.config.inner_model.num_actions
        assert num_actions is not None
        return num_actions

    @without_gradient()
    def to_device(self, device: str | torch.device = "auto", precision: str = "auto") -> Self:
        """Moves the networks to "auto" or a device of torch, and settles the precision, as `load_world_model` does."""
        device = device if isinstance(device, torch.device) else pick_device(device)
        self.precision = pick_precision(precision, device)
        return self.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @without_gradient()
    def settle_precision(self, num_envs: int) -> str:
        """Chooses the precision for dreams of so many rows, where it is "auto"; returns it and why, to be shown.

        On a CPU it is measured once for a machine, a model and a batch, and kept. On other devices, and for models of
        two stages, it stays what "auto" is for the machine. Networks that are to be compiled have to be so before.
        """
        why = "chosen for this machine"
        if self.device.type == "cpu" and self.upsampler is None and self.starts is not None:
            t, h, w, c = self.starts.obs.shape[1:]
            act = torch.zeros((num_envs, t, *self.starts.act.shape[2:]), dtype=torch.from_numpy(self.starts.act).dtype)
            obs = torch.linspace(-1, 1, t * c * h * w).view(1, t, c, h, w).expand(num_envs, -1, -1, -1, -1)
            self.precision, why = fastest_precision(self.denoiser, obs, act)
        return f"{self.precision}: {why}"

    def dream(
        self,
        num_envs: int,
        *,
        sampler: "SamplerConfig | TwoStageSampler | None" = None,
        horizon: int | None = 50,
        seed: int | Sequence[int] | None = None,
        starts: str | int = "any",
        graph: bool | None = None,
    ) -> Dream:
        """Sets up a batch of dreams on the model's device; `reset` starts it.

        Args:
            num_envs, horizon, seed: See `Dream`.
            sampler: How frames are sampled; default: what the card says, else the paper's three Euler steps. Of a
                model of two stages, how the first is, or both are; default: fast.
            graph: See `Dream`; by default, of networks that are compiled.
            starts: Which starts to draw from: "any", "first" (beginnings of games) or one index.

        Raises:
            DiamondGymError: The model has no starts.
        """
        if self.starts is None:
            name = "this world model" if self.card is None else f"world model '{self.card.name}'"
            raise DiamondGymError(f"{name} has no start states to dream from; train or import it with its starts")
        own = self.card.sampler if self.card is not None else {}
        graph = is_compiled(self.denoiser.inner_model) if graph is None else graph
        settled: dict[str, Any] = {"horizon": horizon, "device": self.device, "precision": self.precision}
        settled |= {"seed": seed, "choice": starts, "model": self.fingerprint, "graph": graph}
        if self.upsampler is None:
            if sampler is not None and not isinstance(sampler, SamplerConfig):
                raise BadArgument("this world model has one stage: its sampler is a SamplerConfig")
            sampler = sampler or SamplerConfig(**own)
            check_steps(self.card, sampler)
            return Dream(self.denoiser, self.reward_end, self.starts, num_envs, sampler, **settled)
        from diamond_gym.two_stage import TwoStageDream, TwoStageSampler, sampler_of

        if not isinstance(sampler, TwoStageSampler):
            sampler = sampler_of(own) if sampler is None else TwoStageSampler(sampler)
        networks = self.denoiser, self.reward_end, self.upsampler
        return TwoStageDream(*networks, self.starts, num_envs, sampler, **settled)

    def __repr__(self) -> str:
        """The networks in a line each, with their sizes; torch's own way lists every layer."""
        name = "unregistered" if self.card is None else f"{self.card.name!r}, game={self.card.game!r}"
        lines = [f"WorldModel({name}, device={str(self.device)!r}, precision={self.precision!r})"]
        for attribute, part in self.parts.items():
            size = sum(parameter.numel() for parameter in part.parameters())
            lines.append(f"  {attribute}: {type(part).__name__}, {size:,} parameters")
        return "\n".join(lines)

    def compile_networks(self) -> None:
        """Has dreams that are made from here on computed in the fastest way that there is on this machine.

        On a CPU it is measured whether that is this package's kernels or plain torch (`diamond_gym.networks.ways`);
        where the kernels cannot be used, and on a GPU, it is torch.compile. The weights keep their keys.
        """
        if not self.use_kernels():
            for network in self._to_compile():
                compile_network(network)

    def use_kernels(self) -> bool:
        """As `compile_networks`, without torch.compile, which takes a minute; returns whether there are kernels.

        There are on a CPU with a C++ compiler if the networks' widths fit. Frames differ by float rounding.
        """
        from diamond_gym.networks.kernels import kernels_fit

        denoisers = [denoiser for denoiser in (self.denoiser, self.upsampler) if denoiser is not None]
        widths = [width for denoiser in denoisers for width in denoiser.config.inner_model.channels]
        widths += [] if self.reward_end is None else self.reward_end.config.channels
        folded = all(hasattr(denoiser.inner_model, "fold") for denoiser in denoisers)
        fit = self.device.type == "cpu" and folded and kernels_fit(widths, PRECISIONS[self.precision])
        for network in self._to_compile() if fit else ():
            # counts as compiled, which puts the kernels into what is folded; `compile` would import for ten seconds
            network._compiled_call_impl = network._call_impl
        return fit

    def _to_compile(self) -> list[nn.Module]:
        networks = [denoiser.inner_model for denoiser in (self.denoiser, self.upsampler) if denoiser is not None]
        return networks if self.reward_end is None else [*networks, self.reward_end.encoder]

    @property
    def fingerprint(self) -> str:
        """A short text that tells this model from others: its name and the hash of its weights."""
        name = "unregistered" if self.card is None else self.card.name
        if self.card is not None and "weights" in self.card.files:
            return f"{name}:{self.card.files['weights'].sha256}"
        digest = hashlib.sha256()
        for key, value in sorted(self.weights().items()):
            digest.update(key.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
        return f"{name}:{digest.hexdigest()}"
