"""Acceptance on a GPU: checks and figures of what a CPU cannot show.

    python -m benchmarks.gpu                        every part that needs no data, on the first GPU
    python -m benchmarks.gpu mfu save --sizes b h   the speed of ViT-B/16 and H/14
    python -m benchmarks.gpu --tiny --device cpu    the kit itself, on a machine without a GPU

Parts: env parity start curves resume host mfu save memory stage killed modes fed crowded stream.
Lines are `ok`, `FAIL` (what must hold does not) and `fig` (a measurement); --json FILE keeps them.
docs/gpu.md says what each means and holds the results by card.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch.distributed as dist

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.report import Report
from benchmarks.model import SIZES

ALONE = ("env", "parity", "start", "curves", "resume", "host", "mfu", "save", "memory")
PARTS = (*ALONE, "stage", "killed", "modes", "fed", "crowded", "stream")


def main() -> int:
    """Run the parts in the order of the command line; return 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="models of two narrow blocks")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["s", "b", "l", "h"])
    parser.add_argument("--steps", type=int, default=12, help="steps per round of a measurement")
    parser.add_argument("--photographs", type=Path, help="indexed dataset for part `fed`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all lines here")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    report = Report(options.json)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # before the first product: part `resume`
    # Of torch's names of collectives, that DeepSpeed calls.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    from cluster.deepspeed_import import import_deepspeed
    from cluster.engine import prepare_worker

    gpu = options.device == "cuda"
    device = prepare_worker(rank=0, local_rank=0, world_size=1, gpu=gpu, verbose=False)
    # DeepSpeed looks at what prepare_worker has set.
    from benchmarks.gpu import commands, correct, fed, host, speed

    import_deepspeed()
    gc.freeze()  # else every `clear` looks at all modules again: 0.3 s

    with tempfile.TemporaryDirectory(prefix="vit-gpu-") as folder:
        dist.init_process_group(
            "nccl" if gpu else "gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1
        )
        bench = Bench(
            report=report,
            device=device,
            tiny=options.tiny,
            sizes=("ti",) if options.tiny else tuple(options.sizes),
            steps=2 if options.tiny else options.steps,
            folder=Path(folder),
            photographs=options.photographs and options.photographs.absolute(),
        )
        for name in options.parts or ALONE:
            began = time.perf_counter()
            room = next(
                each for each in (correct, speed, commands, fed, host) if hasattr(each, name)
            )
            report.run(partial(getattr(room, name), bench), name)
            print(f"---- {name}: {time.perf_counter() - began:.0f} s", flush=True)
        dist.destroy_process_group()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
