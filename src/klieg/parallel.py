"""Several processes that train one model: who this one is, what it does of a step, and where they meet.

torchrun starts the processes and tells each its number; without it there is a group of one, for which
everything here is nothing. The parts of a step are numbered and process r of n takes the parts r,
r + n, ...: their texts, dropout and weights are those of one process, and so is the loss curve.

Gradients meet in torch's DistributedDataParallel, while the last part's way back is still under way. A
model that outgrows a card is sharded (FSDP2): each process keeps its share of every tensor, of its
gradient and its moments, and has a block in full only while it is used. Checkpoints look the same in
either case, so a run may go on with any number of processes. Facts go by gloo and never wait for a card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from klieg.errors import Follows, KliegError, first_line

T = TypeVar("T")

PATIENCE = timedelta(hours=12)  # the others wait while the first trains a tokenizer of tens of millions of lines


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """The processes of one run, and this one's place among them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    """Where this process computes."""
    sharded: bool = False
    """Whether the model is spread over the processes."""

    # ---- work that is shared ----

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """Of the parts of some work those that are this process's."""
        return parts[self.rank::self.size]

    def merge(self, mine: list[T]) -> list[T]:
        """What all processes made of their parts, in the order of the parts; anything JSON can hold."""
        if self.size == 1:
            return mine
        body = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(body)]))
        bodies = [torch.zeros(int(max(lengths)), dtype=torch.uint8) for _ in lengths]
        dist.all_gather(bodies, torch.cat([body, body.new_zeros(len(bodies[0]) - len(body))]))
        found = [json.loads(bytes(body[:int(length)].tolist())) for body, length in zip(bodies, lengths, strict=True)]
        whole: list[T] = [None] * sum(map(len, found))
        for rank, part in enumerate(found):
            whole[rank::self.size] = part
        return whole

    def sum(self, value: float) -> float:
        """The sum over all processes, the same bits on each."""
        if self.size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(total)
        return total.item()

    def lead(self, work: Callable[[], object]) -> None:
        """Process 0 works and the others wait. If it fails they end too, and leave it to say why."""
        failed: BaseException | None = None
        if self.rank == 0:
            try:
                work()
            except BaseException as e:
                failed = e
        if self.sum(float(failed is not None)) and failed is None:
            raise Follows(f"process {self.rank} of {self.size} ends because process 0 could not go on, which says why.")
        if failed is not None:
            raise failed

    def divide(self, accumulate: int) -> None:
        """KliegError unless the processes can take equally many of a step's parts; it says what would fit."""
        if accumulate % self.size:
            fewer = max(n for n in range(1, self.size) if accumulate % n == 0)
            below = accumulate - accumulate % self.size
            fits = " or ".join(str(n) for n in (below, below + self.size) if n)
            raise KliegError(f"accumulate is {accumulate} and {self.size} processes cannot share it evenly; set it to {fits}, "
                             f"with parts of another size for the same step, or start {fewer} process{'es' * (fewer > 1)}.")

    # ---- a model that they train together ----

    def joined(self, objective: nn.Module) -> nn.Module:
        """The module whose forward gives the loss, such that the gradients of all processes become their mean."""
        if self.size == 1:
            return objective
        if self.sharded:
            return self._spread(objective)
        return nn.parallel.DistributedDataParallel(objective, gradient_as_bucket_view=True)

    def _spread(self, objective: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        for stack in [module for module in objective.modules() if isinstance(module, nn.ModuleList)]:
            for block in stack:
                cross = getattr(block, "encoder_attn", None)
                # A memory's keys and values are projected for all blocks at once, outside of them: these stay with the whole.
                parts = block if cross is None else [part for part in block.children() if part is not cross] + [
                    cross.q_proj, cross.out_proj]
                fully_shard(parts, mesh=mesh)
        return fully_shard(objective, mesh=mesh)

    def part(self, objective: nn.Module, last: bool) -> AbstractContextManager:
        """Around a part's way there and back: gradients meet once a step, with the last part.

        Sharded ones meet with every part: in full they would not have room.
        """
        return objective.no_sync() if not last and self.size > 1 and not self.sharded else nullcontext()

    def norm(self, parameters: list[nn.Parameter], most: float) -> float:
        """Clips the gradient to a norm of at most `most`, over all processes; gives what it was."""
        return _whole(nn.utils.clip_grad_norm_(parameters, most)).item()

    def gathered(self, tensors: dict[str, Tensor], everywhere: bool = False) -> dict[str, Tensor]:
        """Tensors that may be spread, in full and in the processor's memory; on process 0 only, or `everywhere`."""
        found = {}
        for name, tensor in tensors.items():
            whole = _whole(tensor.detach())                # every process takes part in the gathering
            if everywhere or self.rank == 0:
                found[name] = whole.cpu()
        return found

    def placed(self, tensor: Tensor, like: Tensor) -> Tensor:
        """A tensor in full, where and as spread as another one of its shape."""
        if not hasattr(like, "placements"):
            return tensor.to(like.device)
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(self.device), like.device_mesh, like.placements, src_data_rank=None)


ALONE = Group()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def group(sharded: bool = False, cards: bool = True) -> Iterator[Group]:
    """The processes that torchrun started, for as long as the block lasts; else this one alone. Without `cards` they
    compute on the processor, however many there are."""
    rank, size, local = (int(os.environ.get(name, default)) for name, default in (
        ("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if sharded and size == 1:
        raise KliegError("a model is sharded over several processes; start them with torchrun, or leave --shard away.")
    device = CPU
    if cards and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise KliegError(f"process {local} of this machine has no card of its own, there are {torch.cuda.device_count()}; "
                             "start as many processes as there are cards.")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size == 1:
        yield Group(device=device)
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as e:
        raise KliegError(f"the {size} processes that WORLD_SIZE names do not meet ({first_line(e)}); start them with torchrun, "
                         "or unset WORLD_SIZE.") from None
    try:
        yield Group(rank, size, device, sharded)
    finally:
        dist.destroy_process_group()
