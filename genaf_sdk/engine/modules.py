"""Layers whose output depends on the whole batch or on chance, made independent of the number of processes.

While a model trains, its batch norms use the statistics of the global batch, and dropout draws its mask by the row of
the global batch. The modules stay what they are: only their ``forward`` is exchanged, and put back afterwards.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.processes import ALONE
from genaf_sdk.engine.randomness import random_key, uniform
from genaf_sdk.models.forwards import exchanged_forwards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genaf_sdk.engine.processes import Processes


class CurrentBatch:
    """The batch that is being trained on, for the layers that need to know, and how many have crossed the network."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self.crossings = 0

    @property
    def batch(self) -> Batch | None:
        """The batch that crosses now; to set it begins a crossing."""
        return self._batch

    @batch.setter
    def batch(self, batch: Batch | None) -> None:
        self._batch, self.crossings = batch, self.crossings + 1


@contextmanager
def synchronized_layers(model: nn.Module, processes: Processes, *, sync_batch_norm: bool) -> Iterator[CurrentBatch]:
    """Context in which ``model`` trains alike on any number of processes; yields where to put each batch.

    Stochastic depth and dropout on other axes than (rows, ...) still draw from torch's generator.

    Args:
        model: The classifier.
        processes: Who has the other rows of a batch.
        sync_batch_norm: Whether batch norms use the global batch; without it, each process its own rows.
    """
    current = CurrentBatch()
    exchange: list[tuple[nn.Module, Callable[..., Any]]] = []
    for place, module in enumerate(model.modules()):
        if type(module) is nn.Dropout and 0 < module.p < 1:
            exchange.append((module, RowDropout(module, place, current)))
        elif isinstance(module, _BatchNorm) and sync_batch_norm and processes.count > 1:
            exchange.append((module, partial(_batch_norm, module, module.forward, processes)))
    with exchanged_forwards(exchange):
        yield current


@torch.no_grad()
def draws_from_torch(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether a model that trains draws torch's own random numbers, as stochastic depth does.

    Plain dropout on rows counts for nothing, as its masks are functions. On another axis it is told by numbers of
    inputs that its length does not go with.

    Args:
        model: Inputs to outputs; left as it is.
        inputs: Valid ones, (n, *shape), n at least 3.
    """
    probe = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), synchronized_layers(probe, ALONE, sync_batch_norm=False) as current:
        before = torch.get_rng_state()
        for some in (inputs, inputs[:-1]):
            current.batch = Batch.whole(some, torch.zeros(len(some), dtype=torch.int64))
            probe(some)
        return not torch.equal(before, torch.get_rng_state())


class RowDropout:
    """Dropout whose mask is a function of the row of the global batch, and of which use of the layer in a crossing.

    Args:
        module: The layer; several places of a network may use it.
        place: Its number in the network.
        current: Knows the batch.
    """

    def __init__(self, module: nn.Dropout, place: int, current: CurrentBatch) -> None:
        self.module, self.place, self.current = module, place, current
        self._uses, self._crossing = 0, -1

    @property
    def uses(self) -> int:
        """How often the layer was used in this crossing; set back where a block is computed again."""
        return self._uses if self._crossing == self.current.crossings else 0

    @uses.setter
    def uses(self, uses: int) -> None:
        self._uses, self._crossing = uses, self.current.crossings

    def __call__(self, x: Tensor) -> Tensor:
        """Drop values of x (rows, ...), or (views of rows, ...)."""
        batch, p = self.current.batch, self.module.p
        if not self.module.training or batch is None or len(x) % len(batch.rows):
            return nn.functional.dropout(x, p, self.module.training)
        again = (self.uses,) if self.uses else ()  # the first use has the masks of a layer of one place
        self.uses += 1
        copies = torch.arange(len(x) // len(batch.rows))[:, None]  # (adversarial, clean) of one image are two copies
        rows = (batch.rows + copies * batch.total).flatten().to(x.device)
        kept = uniform(random_key(batch.key, "dropout", self.place, *again), rows, tuple(x.shape[1:])) >= p
        return x * kept / (1 - p)


def _batch_norm(module: _BatchNorm, alone: Any, processes: Processes, x: Tensor) -> Tensor:
    """Batch norm over all processes' rows; its gradient too takes all rows into account.

    Every process sends mean, squared deviations from its own mean, and count of each channel, in one exchange; they are
    joined by Chan et al. (1979), which loses no digits where the mean is large.
    """
    if not module.training:
        output: Tensor = alone(x)
        return output
    values = x.float()
    axes = [0, *range(2, x.ndim)]
    count = x.numel() / x.shape[1]
    mean = values.mean(axes)
    deviations = (values - _by_channel(mean, x)).square().sum(axes)
    own = torch.cat([mean, deviations, mean.new_tensor([count])])[None]
    everyone = processes.all_gather_rows(own, torch.tensor([processes.index]), processes.count)
    channels = x.shape[1]
    means, squares, counts = everyone.split([channels, channels, 1], dim=1)
    total = counts.detach().sum()
    mean = (means * counts).sum(0) / total
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    _track(module, mean.detach(), variance.detach() * total / (total - 1))
    output = (values - _by_channel(mean, x)) * _by_channel(torch.rsqrt(variance + module.eps), x)
    if module.affine:
        output = output * _by_channel(module.weight, x) + _by_channel(module.bias, x)
    output = output.to(x.dtype)
    for name in ("drop", "act"):  # timm's batch norms carry their activation
        following = getattr(module, name, None)
        output = following(output) if isinstance(following, nn.Module) else output
    return output


@torch.no_grad()
def _track(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if not module.track_running_stats or module.running_mean is None or module.running_var is None:
        return
    momentum = module.momentum
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        momentum = 1 / float(module.num_batches_tracked) if momentum is None else momentum
    module.running_mean.lerp_(mean, momentum or 0.0)
    module.running_var.lerp_(variance, momentum or 0.0)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))
