"""A dataset read again, with its progress."""

from pipelines.packing_progress import PackingProgress
from storage.dataset import Dataset
from storage.errors import BadDataset
from storage.pack.execute import Tally
from storage.verify import verify


def verified(dataset: Dataset) -> Dataset:
    """Read a dataset again, telling how far it got. Raises BadDataset with all that is wrong."""
    sizes = {shard.name: shard.bytes for shards in dataset.splits.values() for shard in shards}
    seen: list[str] = []

    with PackingProgress("verify") as progress:

        def tell(shard: str) -> None:
            seen.append(shard)
            progress(
                Tally(
                    unit="MiB",
                    done=sum(sizes[name] for name in seen) / (1 << 20),
                    total=sum(sizes.values()) / (1 << 20),
                    found=0,
                    shards=len(seen),
                    total_shards=len(sizes),
                    found_shards=0,
                )
            )

        problems = verify(dataset, progress=tell)
    if problems:
        remedy = "" if dataset.in_place else ". To replace what is damaged, pack with --force"
        raise BadDataset("; ".join(str(problem) for problem in problems) + remedy)
    print(f"verified: {len(seen)} shards are as the manifest says")
    return dataset
