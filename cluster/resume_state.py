"""Full training state, whatever the ZeRO level and the worker count.

Each worker hands out what it holds, as pieces of `weights/NAME` and one tensor per optimizer state,
such as `exp_avg/NAME`: float32, by their place in the parameter. Put together, they know no
partitions, and each worker takes from them what it is to hold. So a run saved by 4 workers at level
3 continues on 1 worker at level 1 with no conversion, and saving needs no communication.

Two traps are handled here: optimizer states must exist before DeepSpeed links them (see
`prime_optimizer`), and its master weights start from the module's rounded ones (see `set_masters`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.frozen import copy_from_module, frozen_weights
from cluster.partitions import (
    full_tensor,
    grouped_masters,
    inner_optimizer,
    is_replicated,
    local_part,
    master_tensors,
    module_of,
    moments_of,
    shape_of,
    trained,
)
from cluster.whole_tensors import SeesTensors

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

WEIGHTS = "weights"
AVERAGE = "average"
"""Polyak average of the weights, kept as one more optimizer state: partitioned, saved, restored."""


def gather_weights(engine: "DeepSpeedEngine", kind: str | None = None) -> dict[str, Tensor]:
    """Every parameter, or its average (`kind`), by name; float32, on the host (collective).

    What is not trained is as it was given, and its own average. Empty on ranks other than 0.
    """
    assert kind in (None, AVERAGE), f"the weights have no {kind} of what is not trained"
    found = {name: value.clone() for name, value in frozen_weights(engine).items()}
    for name, parameter in trained(engine):
        value = full_tensor(engine, parameter, kind)
        if engine.global_rank == 0:
            found[name] = value.detach().to("cpu", torch.float32, copy=True)
    return found


@torch.no_grad()
def fill_with_average(engine: "DeepSpeedEngine", model: nn.Module) -> None:
    """Give a plain model of the engine's kind the average, on every rank (collective)."""
    for (name, parameter), (same, target) in zip(
        module_of(engine).named_parameters(), model.named_parameters(), strict=True
    ):
        assert name == same, f"{same} where the engine has {name}"
        if parameter.requires_grad:
            target.copy_(full_tensor(engine, parameter, AVERAGE))
        else:
            copy_from_module(parameter, target)


class Piece(NamedTuple):
    """What one worker holds of a parameter, or of one of its optimizer states."""

    name: str
    """`weights/NAME` or `STATE/NAME`, such as `exp_avg/NAME`."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    """First element of the piece in the flattened tensor."""
    values: Tensor
    """float32 [n], on the device that holds it."""


def own_pieces(engine: "DeepSpeedEngine") -> Iterator[Piece]:
    """This worker's share of the state: all workers' together are every element once.

    Rank 0 has all of what is not trained. Views where they can be, so copy them before the next
    step. No communication.
    """
    yield from shared_out(engine, held(engine))
    for name, value in frozen_weights(engine).items():
        yield Piece(f"{WEIGHTS}/{name}", tuple(value.shape), 0, value.reshape(-1))


def shared_out(engine: "DeepSpeedEngine", pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Those of the pieces this worker holds that it writes: at level 0 everybody holds them all."""
    for turn, piece in enumerate(pieces):
        if not is_replicated(engine) or turn % engine.world_size == engine.global_rank:
            yield piece


def held(engine: "DeepSpeedEngine") -> Iterator[Piece]:
    """What this worker holds of what is trained, as views that may be written."""
    for name, parameter in trained(engine):
        for kind, start, values in _parts(engine, parameter):
            yield Piece(f"{kind}/{name}", shape_of(parameter), start, values)


class SavedState(Protocol):
    """All workers' pieces together, whoever wrote them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor, by the name of a `Piece`."""
        ...

    def part(self, name: str, start: int, count: int) -> Tensor:
        """So many elements of the flattened tensor: float32 [count], on the host."""
        ...


def module_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a saved state that goes into the module before the engine is built.

    Rank 0 needs it alone: DeepSpeed gives its weights to the others when it builds the engine.
    """
    prefix = f"{WEIGHTS}/"
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def prime_optimizer(engine: "DeepSpeedEngine", *, average: bool = False) -> None:
    """Create the optimizer states as zeros, as they are before step 0, and the average as asked.

    torch creates them at the first step; DeepSpeed 0.19.8 links them to its parameters after the
    first *group's* first step, so that those of every later group are never found again. States
    that exist beforehand are linked at once, and can be set.
    """
    inner = inner_optimizer(engine)
    for group, master in grouped_masters(engine):
        inner.state[master] = {kind: torch.zeros_like(master) for kind in moments(inner, group)}
        if average:
            inner.state[master][AVERAGE] = master.detach().clone()
        if not isinstance(inner, torch.optim.SGD):  # counts its steps for the bias correction
            # torch's own rule: the fused kernel reads the count on the device, the others here
            device = master.device if inner.defaults.get("fused") else "cpu"
            inner.state[master]["step"] = torch.tensor(0.0, device=device)
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


@torch.no_grad()
def restore(engine: "DeepSpeedEngine", state: SavedState, *, step: int) -> None:
    """Put the state saved after `step` steps into an engine built with its weights.

    Each worker asks for what it holds. Under bfloat16 the float32 master weights are set too: the
    module holds them rounded. No communication.
    """
    for states in inner_optimizer(engine).state.values():
        if "step" in states:
            states["step"].fill_(step)
    for name, shape, start, values in held(engine):
        assert state.shape(name) == shape, f"{name} is {state.shape(name)}, wanted {shape}"
        values.copy_(state.part(name, start, len(values)))


@torch.no_grad()
def set_masters(engine: "DeepSpeedEngine", given: Mapping[str, Tensor]) -> None:
    """Give the master weights, and their average, the float32 weights of rank 0 (collective).

    DeepSpeed casts the module and makes the masters from the cast copy: in bfloat16 a stage would
    start from weights that are off by up to 0.4 %, and a stage of 0 steps would commit those.

    Args:
        engine: built with these weights, before its first step.
        given: float32 weights by name, on rank 0; the other ranks' are not read.
    """
    for name, parameter in trained(engine):
        whole = torch.empty(shape_of(parameter), device=engine.device)
        if engine.global_rank == 0:
            whole.copy_(given[name])
        dist.broadcast(whole, 0)
        for kind, start, values in _parts(engine, parameter):
            if kind in (WEIGHTS, AVERAGE):
                values.copy_(whole.view(-1)[start : start + len(values)])


@torch.no_grad()
def update_average(engine: "DeepSpeedEngine", decay: float) -> None:
    """After a step: average <- decay * average + (1 - decay) * weights, each rank its partition."""
    inner = inner_optimizer(engine)
    for master in master_tensors(engine):
        inner.state[master][AVERAGE].lerp_(master, 1 - decay)


def moments(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> tuple[str, ...]:
    """Names of the states that are kept for each weight of a parameter group."""
    if isinstance(optimizer, SeesTensors):
        return optimizer.moments(group)
    if isinstance(optimizer, torch.optim.AdamW):
        return ("exp_avg", "exp_avg_sq")
    assert isinstance(optimizer, torch.optim.SGD), f"no resume state for {type(optimizer)}"
    return ("momentum_buffer",) if group["momentum"] else ()


def _parts(engine: "DeepSpeedEngine", parameter: nn.Parameter) -> Iterator[tuple[str, int, Tensor]]:
    """This worker's part of a parameter and of each of its states: kind, first element, [n]."""
    averaged = AVERAGE in inner_optimizer(engine).state[master_tensors(engine)[0]]
    average = (AVERAGE,) if averaged else ()
    for kind in (WEIGHTS, *moments_of(engine, parameter), *average):
        found = local_part(engine, parameter, None if kind == WEIGHTS else kind)
        if found is not None:
            yield kind, *found
