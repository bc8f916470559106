"""The fastest of the ways in which a folded network can be computed here, found by a short measurement.

No way is the fastest everywhere: on CPUs with AVX2 or AVX512 this package's kernels are, on those with AMX oneDNN's
bfloat16; and the number of rows computed together depends on the caches. What was found is kept (`remembered`).
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from diamond_gym.device import clock, compile_network, remembered
from diamond_gym.networks.folding import renew

EAGER, KERNELS, COMPILED = "eager", "kernels", "compiled"
_SECONDS = 0.05
_GAIN = 0.98  # of the time that the usual way takes: what is not faster than that is not worth another way


N = TypeVar("N", bound=nn.Module)


class Way(NamedTuple):
    """How a batch is computed.

    Attributes:
        form: "eager" (torch's operators), "kernels" (this package's) or "compiled" (by torch.compile).
        rows: How many of its rows are computed together.
        why: What was measured; "" where nothing was.
    """

    form: str
    rows: int
    why: str = ""

    def __str__(self) -> str:
        """As it is kept and shown: `kernels 4 (ms a row: eager 2: 20.5, kernels 2: 9.3, kernels 4: 9.1)`."""
        return f"{self.form} {self.rows} ({self.why})"


def folded_forms(
    fold: Callable[[], N],
    part: Callable[[N], nn.Module],
    dtype: torch.dtype,
    asked: bool,
    old: dict[str, N],
) -> dict[str, N]:
    """A network folded in each form that it may be computed in; the first is taken where nothing is measured.

    Args:
        fold: Folds it as it is now.
        part: What of it is compiled, or has the kernels put into it.
        dtype: Its arithmetic.
        asked: Whether it is to be compiled.
        old: The forms before; a compiled one gets the new weights and stays compiled.
    """
    new, eager = fold(), old.get(EAGER)
    if not asked:
        if eager is not None and all(part.is_cuda for form in (eager, new) for part in form.parameters()):
            renew(eager, new)  # in place, as a CUDA graph may read the old ones
            return {EAGER: eager}
        return {EAGER: new}
    from diamond_gym.networks.kernels.dreams import use_kernels

    if use_kernels(part(new), dtype):
        return {KERNELS: new, EAGER: fold()}
    device, compiled = next(new.parameters()).device, old.get(COMPILED)
    if compiled is not None and next(compiled.parameters()).device == device:
        renew(compiled, new)
    else:
        compiled = new
        compile_network(part(compiled))
    return {COMPILED: compiled, EAGER: fold()} if device.type == "cpu" else {COMPILED: compiled}


def measured_by(forms: Mapping[str, nn.Module], dtype: torch.dtype, *sizes: object) -> list[str]:
    """What the fastest form depends on, besides the machine."""
    return [str(dtype), *map(str, sizes), source_of_kernels(KERNELS in forms)]


def source_of_kernels(used: bool) -> str:
    """The hash of the kernels' source, on which a measurement depends where they are used; else ""."""
    if not used:
        return ""
    from diamond_gym.networks.kernels import kernels_version

    return kernels_version()


def fastest(
    forms: Collection[str], rows: int, batch: int, start: Callable[[str, int], Callable[[], object]], about: list[str]
) -> Way:
    """The fastest way for a batch on the CPU: measured once for a machine, a network and a size.

    Args:
        forms: Those to choose from, "eager" among them.
        rows: How many rows to begin with.
        batch: How many there are.
        start: Gives what computes so many rows in a form, to be called again and again.
        about: What else the answer depends on.
    """
    words = [*about, *sorted(forms), f"{rows} of {batch}", f"{torch.get_num_threads()} threads"]
    return remembered_way(
        words,
        lambda way: way.form in forms and 1 <= way.rows <= batch,
        lambda: measure(forms, rows, batch, start),
    )


def remembered_way(words: list[str], valid: Callable[[Way], bool], measured: Callable[[], Way]) -> Way:
    """The way that was measured on this CPU; the arguments are those of `diamond_gym.device.remembered`."""
    text = remembered(
        "ways",
        torch.device("cpu"),
        words,
        lambda text: (way := read(text)) is not None and valid(way),
        lambda: str(measured()),
    )
    way = read(text)
    assert way is not None
    return way


def measure(
    forms: Collection[str],
    rows: int,
    batch: int,
    start: Callable[[str, int], Callable[[], object]],
    usual_form: str = EAGER,
) -> Way:
    """The fastest way now: of the forms with the usual number of rows, then of fewer and of more rows in that form."""
    usual = usual_form, rows
    times = _times([(form, rows) for form in (usual_form, *(form for form in forms if form != usual_form))], start)
    best = min(times, key=lambda way: times[way])
    if best[0] != COMPILED:  # which would compile anew for each number of rows, for a minute
        for factor in (0.5, 2.0):
            size = int(best[1] * factor)
            while 1 <= size <= batch:
                times |= _times([(best[0], size)], start)
                if times[best[0], size] >= times[best]:
                    break
                best = best[0], size
                size = int(size * factor)
    if times[best] > _GAIN * times[usual]:
        best = usual
    why = ", ".join(f"{form} {size}: {1000 * seconds:.3g}" for (form, size), seconds in times.items())
    return Way(*best, f"ms a row: {why}")


def _times(
    ways: list[tuple[str, int]], start: Callable[[str, int], Callable[[], object]]
) -> dict[tuple[str, int], float]:
    """The shortest time that a row takes in each way; in turn, so that whatever else the machine does meets all."""
    calls, times = [(way, start(*way)) for way in ways], dict.fromkeys(ways, float("inf"))
    for _, call in calls:
        call()  # what is made at first does not count
    begun = clock()
    for turn in range(50):
        if turn >= 2 and clock() - begun > _SECONDS * len(ways):
            break
        for way, call in calls:
            before = clock()
            call()
            times[way] = min(times[way], (clock() - before) / way[1])
    return times


def read(text: str) -> Way | None:
    """A way as it is kept; None where the text is none."""
    found = re.fullmatch(r"(\w+) (\d+) \(([^()]*)\)", text)
    return None if found is None else Way(found[1], int(found[2]), found[3])
