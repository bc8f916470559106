"""A reward and end model folded for dreaming; see `diamond_gym.folded`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.compiling import compile_network
from diamond_gym.folded import fold_norms, hold, renew, shared, versions
from diamond_gym.kernels.networks import use_kernels
from diamond_gym.reward_end import NUM_END_CLASSES, NUM_REWARD_CLASSES, LstmState, RewardEnd


class FoldedNetworks(nn.Module):
    """The parts of a `RewardEnd`, held in the arithmetic of the dream."""

    def __init__(self, model: RewardEnd, dtype: torch.dtype) -> None:
        super().__init__()
        own = shared(model)
        modulation = fold_norms(own.encoder)
        hold(own, dtype)
        self.encoder, self.lstm, self.head = own.encoder, own.lstm, own.head.float()
        self.modulation, self.act_emb = modulation, own.act_emb.float()
        self.dtype, self.difference = dtype, own.config.difference

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.act_emb.weight.device

    def features(self, obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
        """Flattened features (B, F) of transitions: frames (B, C, H, W), actions (B,)."""
        x = torch.cat((obs, next_obs - obs if self.difference else next_obs), dim=1).to(self.dtype)
        return self.encoder(x, self.modulation(self.act_emb(act))).flatten(1)  # type: ignore[no-any-return]

    def remember(self, x: Tensor, state: LstmState) -> LstmState:
        """One LSTM step from features (B, F) and the state (hx, cx), each float32 (B, D)."""
        hx, cx = state
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.parameters()
        gates = F.linear(x, weight_ih, bias_ih).float() + F.linear(hx.to(self.dtype), weight_hh, bias_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        cx = torch.addcmul(f.sigmoid() * cx, i.sigmoid(), g.tanh())
        return o.sigmoid() * cx.tanh(), cx


class FoldedRewardEnd:
    """A reward and end model without gradient, called as the original.

    Its encoder is compiled if the original's is (`reward_end.encoder.compile()`).

    Args:
        model: The original, which it follows.
        dtype: The arithmetic of the networks.
    """

    def __init__(self, model: RewardEnd, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model, dtype
        self._versions: tuple[int, ...] = ()
        self._networks: FoldedNetworks | None = None

    @property
    def networks(self) -> FoldedNetworks:
        """The folded networks, compiled if the original's are; folded anew if the original's weights have changed."""
        now = versions(self.model)
        if self._networks is None or now != self._versions:
            compiled = self.model.encoder._compiled_call_impl is not None
            networks = FoldedNetworks(self.model, self.dtype)
            if compiled and use_kernels(networks.encoder, self.dtype):
                self._networks = networks
            elif compiled and self._networks is not None and self._networks.device == networks.device:
                renew(self._networks, networks)
            else:
                self._networks = networks
                if compiled:
                    compile_network(networks.encoder)
            self._versions = now
        return self._networks

    def __call__(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, state: LstmState | None = None
    ) -> tuple[Tensor, Tensor, LstmState]:
        """Scores transitions; arguments and results are those of `RewardEnd.forward`."""
        with torch.autocast(obs.device.type, enabled=False):
            networks, (b, t) = self.networks, act.shape
            if state is None:
                zero = torch.zeros(b, networks.lstm.hidden_size, dtype=torch.float32, device=obs.device)
                state = (zero, zero)
            else:
                state = (state[0][0], state[1][0])
            outputs = []
            for i in range(t):
                state = networks.remember(networks.features(obs[:, i], act[:, i], next_obs[:, i]), state)
                outputs.append(state[0])
            logits = networks.head(torch.stack(outputs, dim=1))
            logits_rew, logits_end = logits.split((NUM_REWARD_CLASSES, NUM_END_CLASSES), dim=-1)
            return logits_rew, logits_end, (state[0][None], state[1][None])
