"""Several processes that compute one run (`torchrun`): what they exchange. Alone, all of it is free.

Every call is made by all of them, in one order: what decides whether it is made has to be the same
everywhere. Each has its own share of every batch; weights, optimizers and verdicts are the same.
"""

import contextlib
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch import distributed as dist

from edgekd.errors import DeviceError, UsageError

# How long one waits for another that says nothing; a process that dies is noticed at once.
PATIENCE_S: Final = 300.0
# Between the draws of two ranks: far from the small numbers that seeds differ by. Not a power of
# two, since the CPU's generator takes 32 bits of it.
SEED_STRIDE: Final = 1_000_003
# Of a message
PIECE_BYTES: Final = 1 << 26


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes of a run, as one of them sees it."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_single(self) -> bool:
        return self.world_size == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that shows, decides by the clock, and writes."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Of draws that are to differ between ranks."""
        return seed + SEED_STRIDE * self.rank

    # --- numbers --------------------------------------------------------------------------------

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each parameter the mean of its gradients, in one exchange.

        Losses are means over equal shares of a batch, so this is the gradient of the whole batch.
        """
        if not self.is_single:
            self.average([part.grad for part in parameters if part.grad is not None])

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device and type by their means, in one exchange."""
        if self.is_single or not tensors:
            return
        flat = _flat(tensors)
        self._average(flat)
        for tensor, part in zip(tensors, _split_like(flat, tensors), strict=True):
            tensor.copy_(part)

    def all_reduce_mean(self, values: Tensor, *, alike: bool = False) -> Tensor:
        """The mean over ranks, through which gradients reach the values of every rank.

        They are those of the mean of all ranks' losses, times `ranks`: what averaged gradients of
        weights make right again.

        Args:
            values: of one shape everywhere.
            alike: what is computed of the mean is the same on every rank, so that the backward pass
                has nothing to exchange.
        """
        if self.is_single:
            return values
        found: Tensor = _Mean.apply(values, self, alike)
        return found

    def all_reduce_means(self, values: Sequence[Tensor]) -> Sequence[Tensor]:
        """`mean` of each, in one exchange."""
        return (
            values if self.is_single else _split_like(self.all_reduce_mean(_flat(values)), values)
        )

    def all_reduce_sum(self, counts: list[int]) -> list[int]:
        """The sums over ranks."""
        if self.is_single:
            return counts
        found = torch.tensor(counts, dtype=torch.int64)
        with _exchange():
            dist.all_reduce(found)
        return [int(count) for count in found]

    def all_reduce_max(self, number: int) -> int:
        if self.is_single:
            return number
        found = torch.tensor(number)
        with _exchange():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def all_reduce_and(self, truth: bool) -> bool:
        """Whether it is so on every rank."""
        return not self.all_reduce_max(int(not truth))

    def broadcast_number(self, number: float) -> float:
        """Rank 0's."""
        if self.is_single:
            return number
        found = torch.tensor(number, dtype=torch.float64)
        with _exchange():
            dist.broadcast(found, 0)
        return float(found)

    def _average(self, values: Tensor) -> None:
        with _exchange():
            dist.all_reduce(values)
        values.div_(self.world_size)

    # --- files ----------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> bytes:
        """Rank 0's; what others pass is not looked at."""
        if self.is_single:
            return data
        if self.is_main:
            for rank in range(1, self.world_size):
                self.send(data, to=rank)
            return data
        return self.recv(of=0)

    def send(self, data: bytes, *, to: int) -> None:
        with _exchange():
            dist.send(torch.tensor(len(data)), to)
            for start in range(0, len(data), PIECE_BYTES):
                # Writable, as torch wants it
                piece = bytearray(data[start : start + PIECE_BYTES])
                dist.send(torch.frombuffer(piece, dtype=torch.uint8), to)

    def recv(self, *, of: int) -> bytes:
        """What that rank sends."""
        size = torch.tensor(0)
        with _exchange():
            dist.recv(size, of)
            found = torch.empty(int(size), dtype=torch.uint8)
            for start in range(0, len(found), PIECE_BYTES):
                dist.recv(found[start : start + PIECE_BYTES], of)
        return found.numpy().tobytes()

    def gather(self, tensor: Tensor) -> Tensor:  # (B, N, ...) -> (B, ranks N, ...)
        """On rank 0 the tensors of all ranks, joined in their second dimension; elsewhere the own one."""
        if self.is_single:
            return tensor
        own = tensor.cpu().contiguous()
        with _exchange():
            if not self.is_main:
                for part in own:
                    dist.send(part, 0)
                return tensor
            size = own.shape[1]
            whole = own.new_empty(len(own), self.world_size * size, *own.shape[2:])
            whole[:, :size] = own
            for rank in range(1, self.world_size):
                for number in range(len(own)):
                    dist.recv(whole[number, rank * size : (rank + 1) * size], rank)
        return whole.to(tensor.device)

    def destroy(self) -> None:
        """Everybody is done with everybody; nothing of the above may be called after."""
        if not self.is_single:
            # So that nobody leaves while another still reads
            self.broadcast_number(0.0)
            dist.destroy_process_group()


SINGLE_PROCESS: Final = ProcessGroup()


def world_size() -> int:
    """Processes that `torchrun` says there are; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Of them, those on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def init_process_group(*, on_cpu: bool) -> ProcessGroup:
    """Find the other processes that `torchrun` started, before accelerate looks for them.

    Raises:
        UsageError: the environment lacks what `torchrun` sets.
        DeviceError: the others were not found.
    """
    if world_size() == 1:
        return SINGLE_PROCESS
    # Its functions take the group of the moment of its import for a default, and would keep it, threads included, beyond
    # `destroy`: a thread of gloo's that outlives the interpreter aborts the process. timm imports it.
    importlib.import_module("torch.distributed.nn")
    try:
        # Host tensors (verdicts, checkpoints) go through gloo in either case.
        dist.init_process_group(
            "gloo" if on_cpu else "cpu:gloo,cuda:nccl", timeout=timedelta(seconds=PATIENCE_S)
        )
    except ValueError as error:
        raise UsageError(
            f"WORLD_SIZE is {world_size()}, and the rest that torchrun sets is missing ({error}). Start with "
            "torchrun --nproc-per-node N -m edgekd distill ..., or unset WORLD_SIZE."
        ) from error
    except RuntimeError as error:
        raise DeviceError(
            f"the other processes of this job were not found in {PATIENCE_S:.0f} s ({_in_short(error)})."
        ) from error
    return ProcessGroup(rank=dist.get_rank(), world_size=dist.get_world_size())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _split_like(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [each.numel() for each in like])
    return [part.view(each.shape) for part, each in zip(parts, like, strict=True)]


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DeviceError(
            "another process of this job was lost, or was silent for too long "
            f"({_in_short(error)}). The run stands as it was last saved; the same command continues."
        ) from error


def _in_short(error: Exception) -> str:
    """What gloo or NCCL say, without the place in their sources before and the advice after it."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", first).partition(". ")[0].rstrip(".")


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ProcessGroup, alike: bool) -> Tensor:  # noqa: ANN401
        ctx.group, ctx.alike = group, alike
        found = values.detach().clone(memory_format=torch.contiguous_format)
        group._average(found)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        if not ctx.alike:
            grad = grad.clone(memory_format=torch.contiguous_format)
            ctx.group._average(grad)
        return grad, None, None
