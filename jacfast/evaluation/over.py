"""A measure over a data set that is no single tensor, shared among processes."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from jacfast.calling import Model, device_of
from jacfast.checks import flag
from jacfast.data.batches import split_batch
from jacfast.runs import checksum_of
from jacfast.team import Team


def mean_over(
    measure: Callable[..., float | Sequence[float]],
    model: Model,
    batches: Iterable[Any],
    *,
    labels: bool = True,
    progress: str | None = None,
    **options: Any,
) -> Any:
    """Return a measure over all batches: the mean of its values, weighted by their samples.

    ``sum_b N_b m_b / sum_b N_b``, so that a measure that is itself a mean over samples is that of
    the whole: `accuracy`, `accuracy_curve`, `jacobian_norm`, `jacfast.rho_adv`. Of numbers in a
    sequence each by itself. Under ``torchrun``, or in an initialised group of torch.distributed,
    the processes share the batches, and each gets the result, the same for any number of them.

    Args:
        measure: called as ``measure(model, x, y, **options)``.
        model: the classifier; batches are moved to the device of its parameters.
        batches: a DataLoader, or any iterable of x, (x, y, ...) or mappings, as for
            `jacfast.deepfool_to_disk`; with several processes in the same order in each.
        labels: whether the measure takes y; else it is called as ``measure(model, x, **options)``.
        progress: the label of a progress bar; None: no bar.
        options: passed on to `measure`. ``over`` of `rho_adv` must be "all": else the values are
            means over other numbers of samples.

    Returns:
        A float, or a list of floats where the measure returns a sequence.

    Raises:
        TypeError, ValueError: as `measure`; or it returns no number, or not as many for each batch,
            a batch is of another type, there is none, or the processes are not given the same.
            ConnectionAbortedError, TimeoutError: as `jacfast.deepfool_to_disk`.
    """
    if options.get("over", "all") != "all":
        raise ValueError(f"over must be 'all' for a mean over batches; got {options['over']!r}")
    labels = flag("labels", labels)
    device = device_of(model)

    name = getattr(measure, "__name__", type(measure).__name__)

    def of(number: int, batch: Any) -> tuple[int, list[float], bool]:
        x, y = split_batch(batch, number, labels)
        given = [x.to(device), *([] if y is None else [y.to(device)])]
        value = measure(model, *given, **options)
        values = value if isinstance(value, Sequence) else [value]
        many = any(isinstance(each, Tensor) and each.numel() != 1 for each in values)
        try:
            numbers = None if many else [float(each) for each in values]
        except (TypeError, ValueError):
            numbers = None
        if numbers is None:
            raise TypeError(
                "measure must return a number, or a sequence of numbers; "
                f"got {type(value).__name__} of {name}"
            )
        return len(x), numbers, values is value

    about = {"measure": name, "labels": labels, "model": checksum_of(model)}
    team = Team.here()
    with team.together():
        team.agree(about)
        found = team.each(of, batches, desc=progress, disable=progress is None)
    if not found:
        raise ValueError("batches must yield at least one batch; got none")
    sizes, values, several = zip(*found, strict=True)
    if len(counts := {len(each) for each in values}) > 1:
        raise ValueError(
            f"measure must return as many numbers for each batch; got {sorted(counts)} of {name}"
        )
    means = [_mean(sizes, each) for each in zip(*values, strict=True)]
    return means if several[0] else means[0]


def _mean(sizes: Sequence[int], values: Sequence[float]) -> float:
    return math.fsum(n * value for n, value in zip(sizes, values, strict=True)) / sum(sizes)
