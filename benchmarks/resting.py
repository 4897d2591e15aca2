"""What a stream costs while its consumer is slower: the usual state of a training that is fed well.

    python -m benchmarks.resting                     16 px, a batch a second for 20 s
    python -m benchmarks.resting --image-size 224

Handwritten digits; 100,000 steps are planned, as a long training does. Printed are the processes
that took most of a CPU, and how many images a second the stream gives without the pauses.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.usage import seconds_of_ray
from pipelines.cli.ray_session import ray_session
from storage.columns import StreamSpec
from storage.decode import Crop
from storage.pack import pack
from storage.pack.digits import Digits
from storage.stream import train_stream

STEPS, BATCH, CPUS = 100_000, 64, 2
FAST_BATCHES = 800


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, ray_session(verbose=False, num_cpus=CPUS):
        uri = str(Path(folder) / "digits")
        pack(Digits(), uri)
        spec = StreamSpec(
            dataset=uri,
            split="train",
            seed=0,
            global_batch=BATCH,
            crop=Crop(image_size=arguments.image_size),
        )
        data = train_stream(spec, start_step=0, stop_step=STEPS, world_size=1)
        (split,) = data.streaming_split(1, equal=True)
        batches = iter(split.iter_batches(batch_size=BATCH, prefetch_batches=2))
        next(batches)
        time.sleep(10)  # all that may wait for the consumer does
        before = seconds_of_ray()
        for _ in range(arguments.seconds):
            time.sleep(1)
            next(batches)
        after = seconds_of_ray()
        spent = [
            (seconds - before.get(process, ("", 0.0))[1], name)
            for process, (name, seconds) in after.items()
        ]
        for seconds, name in sorted(spent, reverse=True)[:5]:
            print(f"{seconds / arguments.seconds:7.1%} of a CPU  {name[:60]}")
        for _ in range(FAST_BATCHES):
            next(batches)
        began = time.perf_counter()
        for _ in range(FAST_BATCHES):
            next(batches)
        rate = FAST_BATCHES * BATCH / (time.perf_counter() - began)
        print(f"{rate:7,.0f} img/s on {CPUS} CPUs, {arguments.image_size} px")
        del batches  # while Ray is there: its end tells the coordinator


if __name__ == "__main__":
    main()
