"""How many workers, and what each holds - pure decisions that say the numbers they come from."""

from dataclasses import replace

from cluster.errors import BadPlace
from cluster.settings import Place, Workers


def worker_counts(workers: Workers, *, global_batch: int, even: bool = False) -> tuple[int, ...]:
    """The numbers of workers that may train, ascending: each shares the batch equally.

    `ElasticTrainer` skips all other numbers, so the global batch never changes.

    Args:
        workers: the range.
        global_batch: images of an optimizer step.
        even: require an even number of images per worker, because mixup and cutmix pair them.

    Raises:
        BadPlace: the global batch cannot be divided equally by any number in the range.
    """
    found = range(workers.fewest, workers.most + 1)
    counts = tuple(n for n in found if global_batch % (2 * n if even else n) == 0)
    if not counts:
        shares = "even shares, which mixup and cutmix need" if even else "equal shares"
        raise BadPlace(
            f"no number of workers from {workers.fewest} to {workers.most} divides the global batch"
            f" of {global_batch} into {shares} - change workers.min, workers.max or global_batch"
        )
    return counts


def settle_workers(place: Place, *, have_gpus: float) -> tuple[Place, str]:
    """Replace what is null of `workers` by what the cluster has; a note where GPUs stay idle.

    Raises:
        BadPlace: nodes are still to come, so that nobody can know.
    """
    workers = place.workers
    wanted = workers.min or 1
    if place.wait_for_nodes and workers.gpus is None and have_gpus < wanted:
        raise BadPlace(
            f"workers.gpus is null, and there are {have_gpus:g} GPUs for {wanted} workers"
            " while nodes are still to come (wait_for_nodes) - set --place.workers.gpus 1 to wait"
            " for GPUs, 0 to train on CPUs"
        )
    gpus = workers.gpus_of(have_gpus)
    if place.wait_for_nodes and gpus and workers.max is None:
        raise BadPlace(
            "workers.max is null while nodes are still to come (wait_for_nodes) - set"
            " --place.workers.max to the most workers to train with"
        )
    most = max(wanted, int(have_gpus)) if gpus and workers.max is None else workers.most
    settled = replace(workers, max=most, gpus=gpus)
    note = ""
    if workers.gpus is None and have_gpus and not gpus:
        use = f"--place.workers.min {have_gpus:g} --place.workers.max {have_gpus:g}"
        note = (
            f"{settled.fewest} workers train on CPUs: the cluster's {have_gpus:g} GPU"
            f"{'s are' if have_gpus > 1 else ' is'} too few for one each - {use} uses"
            f" {'them' if have_gpus > 1 else 'it'}"
        )
    return replace(place, workers=replace(settled, min=settled.fewest)), note


def worker_cpus(workers: Workers, *, most: int, cluster_cpus: float) -> float:
    """CPUs one worker holds: as set, else 1 beside a GPU, else its share of half the cluster."""
    if workers.cpus is not None:
        return workers.cpus
    if workers.gpus:
        return 1.0
    share = cluster_cpus / 2 / most  # nothing where all nodes are still to come
    return round(min(1.0, share), 3) or 1.0


def check_room(
    *, fewest: int, cpus: float, gpus: int, decode_cpus: float, have_cpus: float, have_gpus: float
) -> None:
    """Refuse a cluster of fixed size that cannot hold the workers and one decoding task.

    Without a CPU left for Ray Data the workers would wait for their first batch for ever.

    Raises:
        BadPlace: with the sum spelled out.
    """
    need_cpus = fewest * cpus + decode_cpus
    if need_cpus > have_cpus + 1e-6:
        raise BadPlace(
            f"{fewest} workers x {cpus:g} CPUs + {decode_cpus:g} for decoding = {need_cpus:g} CPUs,"
            f" but the cluster has {have_cpus:g} - lower workers.cpus, workers.min or decode_cpus"
        )
    if fewest * gpus > have_gpus:
        raise BadPlace(
            f"{fewest} workers x {gpus} GPU = {fewest * gpus} GPUs, but the cluster has"
            f" {have_gpus:g} - set workers.gpus 0 to train on CPUs, or lower workers.min"
        )
