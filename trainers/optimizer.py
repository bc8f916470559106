"""The optimizer of the paper: AdamW without decay on biases, norms and embeddings, linear warm-up."""

from collections.abc import Iterable
from typing import Any

from torch import nn

DECAYED_LAYERS = (nn.Conv2d, nn.Linear, nn.LSTM, nn.LSTMCell)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters for AdamW: the weights of conv, linear and LSTM layers decay, all else does not.

    Returns:
        Two groups, the decayed one first, each with "params" and "weight_decay".
    """
    decayed = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, DECAYED_LAYERS)
        for name, parameter in layer.named_parameters(recurse=False)
        if "weight" in name
    }
    parameters = list(module.parameters())
    groups: Iterable[tuple[bool, float]] = ((True, weight_decay), (False, 0.0))
    return [
        {"params": [p for p in parameters if (id(p) in decayed) is decays], "weight_decay": decay}
        for decays, decay in groups
    ]
