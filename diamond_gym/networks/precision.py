"""The precision in which a CPU dreams faster, measured with the network and the batch that it is chosen for."""

from collections.abc import Callable

import torch
from torch import Tensor

from diamond_gym.device import PRECISIONS, bfloat16_pays, is_compiled, remembered
from diamond_gym.networks import inference
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.kernels import kernels_version
from diamond_gym.networks.ways import COMPILED, EAGER, Way, measure, read

_USUAL = f"float32_{EAGER}"


def fastest_precision(denoiser: Denoiser, obs: Tensor, act: Tensor | None) -> tuple[str, str]:
    """The precision of the fastest way in which a batch can be denoised on this CPU, and why it is chosen.

    All forms of both precisions are measured, in turn, once for a machine, a network and a batch; not at all where a
    convolution in bfloat16 is no faster than one in float32 (`diamond_gym.device.bfloat16_pays`).

    Args:
        denoiser: On the CPU.
        obs: Past frames in [-1, 1], float32 (B, T, C, H, W).
        act: Past actions (B, T[, A]), or None.
    """
    if not bfloat16_pays(obs.device):
        return "float32", "a convolution in bfloat16 is not faster on this processor"
    if (
        not hasattr(denoiser.inner_model, "fold")
        or len(obs) * inference.largest_map(denoiser, obs, torch.bfloat16) < inference.SMALL
    ):
        return "bfloat16", "a convolution in bfloat16 is faster on this processor"
    config, (h, w) = denoiser.config.inner_model, obs.shape[-2:]
    asked = is_compiled(denoiser.inner_model)
    about = ("precision", str(config), f"{h}x{w}", f"{len(obs)} rows", f"{torch.get_num_threads()} threads")
    words = (*about, kernels_version() if asked else "")
    text = remembered(
        "ways", obs.device, words, lambda text: _valid(read(text)), lambda: str(_measure(denoiser, obs, act))
    )
    way = read(text)
    assert way is not None
    precision, _, form = way.form.partition("_")
    return precision, f"{form} {way.rows} ({way.why})"


def _valid(way: Way | None) -> bool:
    return way is not None and way.form.partition("_")[0] in PRECISIONS


def _measure(denoiser: Denoiser, obs: Tensor, act: Tensor | None) -> Way:
    folded = {name: inference.FoldedDenoiser(denoiser, dtype) for name, dtype in PRECISIONS.items()}
    # what torch.compile makes takes a minute for each precision: it is not tried for this
    forms = [f"{name}_{form}" for name, own in folded.items() for form in own.forms if form != COMPILED]

    def start(form: str, rows: int) -> Callable[[], object]:
        name, _, form = form.partition("_")
        return folded[name].call(form, obs[:rows], None if act is None else act[:rows])

    return measure(forms, folded["float32"].rows_at_once(obs), len(obs), start, _USUAL)
