"""Training fed by the stream against the same loop on one batch in memory: what the data costs.

    python -m benchmarks.goodput                                 ViT-S at 224 px, all cores
    python -m benchmarks.goodput --shards 'DIR/train-*.tar' --model vit_ti16 --batch 32
    python -m benchmarks.goodput --device cuda --dtype bfloat16 --batch 256 --steps 100

One process trains; Ray Data decodes beside it, on a CPU on the same cores. A round is both loops,
and each round starts with the other one. A loop is timed after its first four steps, beside which
the stream's processes start and import. It may read four blocks ahead and no more, so that a short
run decodes as it goes, like a long one, and not all at once.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

import vit
from benchmarks.ingest import add_source, prepared_source
from benchmarks.loaders import Source
from pipelines.cli.ray_session import ray_session
from storage import stream as streaming
from storage.ahead import Ahead
from storage.tasks import blocks_in_order

Batch = tuple[Tensor, Tensor]
_START_STEPS = 4


def streamed(source: Source) -> Iterator[Batch]:
    """uint8 [b, H, W, 3] and int64 [b] of every step."""
    # One task at a time and four batches ahead: more would hold a whole loop.
    few = Ahead(source.batch * 3 * source.spec.crop.image_size**2, each=4)
    streaming.blocks_in_order = lambda *plan, **how: blocks_in_order(*plan, **how | {"ahead": few})
    data = streaming.train_stream(
        source.spec,
        start_step=0,
        stop_step=source.steps,
        world_size=1,
        num_cpus=2,
        rows_per_block=source.batch,
    )
    (split,) = data.streaming_split(1, equal=True)
    for columns in split.iter_batches(
        batch_size=source.batch, batch_format="numpy", prefetch_batches=2
    ):
        batch = {name: np.asarray(column) for name, column in columns.items()}
        yield torch.from_numpy(batch["image"].copy()), torch.from_numpy(batch["label"].copy())


def repeated(source: Source) -> Iterator[Batch]:
    """The same batch at every step."""
    size = (source.batch, source.image_size, source.image_size, 3)
    images = torch.randint(0, 256, size, dtype=torch.uint8)
    for _ in range(source.steps):
        yield images, torch.zeros(source.batch, dtype=torch.int64)


class Loop:
    """One optimizer step after the other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        config = vit.VARIANTS[arguments.model]
        self.model = vit.build_model(config).to(self.device).train()
        optim = vit.OptimConfig()
        self.optimizer = vit.build_optimizer(vit.param_groups(self.model, optim), optim)
        mixed = arguments.dtype == "bfloat16"
        self.cast = torch.autocast(arguments.device, torch.bfloat16) if mixed else nullcontext()

    def run(self, batches: Iterator[Batch]) -> tuple[float, float, float]:
        """Seconds to the first batch, then seconds a step and the share of them spent waiting."""
        began = asked = timed = time.perf_counter()
        first, waited, steps = 0.0, 0.0, 0
        for batch in batches:
            arrived = time.perf_counter()
            first = first or arrived - began
            waited += arrived - asked
            self.step(*batch)
            steps += 1
            asked = time.perf_counter()
            if steps == _START_STEPS:
                timed, waited = asked, 0.0
        seconds = asked - timed
        return first, seconds / (steps - _START_STEPS), waited / seconds

    def step(self, images: Tensor, labels: Tensor) -> None:
        with self.cast:
            logits = self.model(vit.normalize(images.to(self.device)))
            loss = torch.nn.functional.cross_entropy(logits, labels.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_source(parser, steps=20, batch=16, cpus=torch.get_num_threads())
    parser.add_argument("--model", default="vit_s16", choices=sorted(vit.VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    loop = Loop(arguments)
    loops: dict[str, Callable[[Source], Iterator[Batch]]] = {
        "in memory": repeated,
        "stream": streamed,
    }
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in loops}
    with prepared_source(arguments) as source, ray_session(verbose=False, num_cpus=arguments.cpus):
        for number in range(arguments.rounds + 1):
            for name in list(loops)[:: -1 if number % 2 else 1]:
                result = loop.run(loops[name](source))
                if number:  # the first round warms up
                    rounds[name].append(result)
    print(f"{arguments.model}, batch {arguments.batch}, {arguments.steps} steps a loop")
    for name, results in rounds.items():
        first, step, waited = (statistics.median(column) for column in zip(*results, strict=True))
        print(
            f"  {name:<10} {arguments.batch / step:8.2f} img/s   waiting {waited:5.1%}"
            f"   first batch after {first:.2f} s"
        )
    pairs = zip(rounds["in memory"], rounds["stream"], strict=True)
    ratios = [memory[1] / stream[1] for memory, stream in pairs]
    print(
        f"  goodput {statistics.median(ratios):.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)"
    )


if __name__ == "__main__":
    main()
