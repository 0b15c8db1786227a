"""What the processes of a run do together: sums, rows of the global batch with gradients, decisions of the first."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import DistributedType
from accelerate.utils import get_int_from_env
from torch import Tensor

from genaf_sdk.errors import ConfigError, GenafError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from accelerate import Accelerator

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among all of the run. Alone, every method returns what it is given.

    Args:
        index: Number of this process; 0 is the one that writes.
        count: How many there are.
        device: Where tensors have to be for the processes to exchange them.
    """

    index: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """Return the processes that ``accelerator`` knows.

        Raises:
            ConfigError: They share the model out among them in a way other than FSDP2, or gradients are accumulated.
        """
        kind = accelerator.distributed_type
        unsupported = kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
        if unsupported or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
            raise ConfigError(
                f"The accelerator shares the model out among processes by {kind.value}.",
                expected="data parallelism, or FSDP2 where training needs more memory than a device has",
                remedy="start with `accelerate launch --multi_gpu` or with `--use_fsdp --fsdp_version 2`",
            )
        if accelerator.gradient_accumulation_steps != 1:
            raise ConfigError(
                f"The accelerator accumulates the gradients of {accelerator.gradient_accumulation_steps} batches.",
                expected="gradient_accumulation_steps=1: an optimizer step for every batch",
                remedy="set the batch size of the method, and machine.micro_batch_size where memory is short",
            )
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.index == 0

    @property
    def neighbors(self) -> int:
        """How many of them share this machine, as their launcher says; all of them where it does not."""
        return min(self.count, get_int_from_env(["LOCAL_WORLD_SIZE"], self.count) or 1)

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return ``value`` added up over all processes, without gradient."""
        if self.count == 1:
            return value
        total = value.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(value.device)

    def any(self, flag: bool) -> bool:
        """Return whether any process says so."""
        return flag if self.count == 1 else bool(self.all_reduce(torch.tensor(int(flag))))

    def broadcast(self, value: Value) -> Value:
        """Return what the first process has, so that all decide alike."""
        if self.count == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, device=torch.device(self.device))
        received: Value = box[0]
        return received

    def together(self, work: Callable[[], Value]) -> Value:
        """Return what ``work()`` gives this process; where it fails in any process, it fails in all.

        Processes that went on would wait for the one that has failed.

        Args:
            work: Needs no other process: it would wait for one that has failed before.

        Raises:
            GenafError: Of the first process that failed, unless this one has an error of its own.
        """
        if self.count == 1:
            return work()
        done: list[Value] = []
        own: Exception | None = None
        try:
            done.append(work())
        except Exception as error:  # whatever it is, the others have to know
            own = error
        try:
            box: list[Any] = [None if own is None else _telling(own, self)]
            first = self._first(own is not None)
            if first < self.count:
                dist.broadcast_object_list(box, src=first, device=torch.device(self.device))
        except RuntimeError as lost:  # others are gone: what happened here says more
            if own is not None:
                raise own from lost
            raise
        if own is not None:
            raise own
        if first < self.count:
            raise box[0]
        return done[0]

    def _first(self, flag: bool) -> int:
        """Return the number of the first process that says so; their count where none does."""
        number = torch.tensor(self.index if flag else self.count, device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MIN)
        return int(number)

    @torch.no_grad()
    def hand_out(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first one's tensors, in place; all have tensors of the same shapes."""
        for tensor in tensors if self.count > 1 else ():
            values = tensor.contiguous()
            dist.broadcast(values, src=0)
            tensor.copy_(values)

    def all_gather_rows(self, values: Tensor, rows: Tensor, total: int) -> Tensor:
        """Return all rows of a global batch, of which every process has some; gradients find their way back.

        Args:
            values: This process's rows (n, ...).
            rows: Their numbers in the global batch, int64 (n,); every number belongs to exactly one process.
            total: Rows of the global batch.

        Returns:
            (total, ...). The gradient of ``values`` is the sum of the gradients that all processes send.
        """
        if self.count == 1:
            return values
        gathered: Tensor = _GatherRows.apply(values, rows.to(values.device), total)
        return gathered


ALONE = Processes()


def _telling(error: Exception, processes: Processes) -> GenafError:
    """Return an error of this package, which can travel: what others raise may hold anything."""
    if isinstance(error, GenafError) and type(error).__module__ == GenafError.__module__:
        return type(error)(error.problem, expected=error.expected, remedy=error.remedy)
    return TrainingError(
        f"Process {processes.index} of {processes.count} failed: {type(error).__name__}: {error}.",
        remedy="look at that process's own error",
    )


class _GatherRows(torch.autograd.Function):
    """Rows put at their places among zeros, then added up over processes: exact, and shares may differ in size."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(rows)
        gathered = values.new_zeros(total, *values.shape[1:])
        gathered[rows] = values
        dist.all_reduce(gathered)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rows], None, None


@contextmanager
def peers_alive(processes: Processes) -> Iterator[None]:
    """Turn the backend's error about a process that is gone into one that says so.

    Raises:
        TrainingError: The connection to another process broke, or it did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if processes.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text):
            raise
        raise TrainingError(
            f"Process {processes.index} of {processes.count} lost contact with another process "
            f"({text.splitlines()[0][:200]}).",
            remedy="look at that process's own error, then start all of them again with resume=True",
        ) from error
