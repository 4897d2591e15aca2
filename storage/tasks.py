"""Numbered tasks on Ray Data: one block per item, in the order of the items, planned lazily.

Ray makes an object for every block before it reads the first: a run of a million steps would spend
minutes on that. Here the plan is a range of integers.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow
import ray.data
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from storage.ahead import Ahead

Block = dict[str, np.ndarray]
"""Columns of a block, by name."""
_ITEMS_PER_READ_TASK = 4096


def even_ranges(count: int, parts: int) -> list[range]:
    """Cut the numbers [0, count) into consecutive ranges of equal length, give or take one."""
    edges = [count * i // parts for i in range(parts + 1)]
    return [range(*ends) for ends in pairwise(edges)]


def _blocks(items: dict[str, Any], block: Callable[[int], Block]) -> Iterator[Any]:
    for item in items["item"].tolist():
        yield block(item)


def blocks_in_order(
    block: Callable[[int], Block],
    items: int,
    num_cpus: float,
    *,
    ahead: Ahead,
    nodes: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Run one task per item, in order, as far `ahead` of the consumers as it says.

    `nodes` is Ray's label selector for where tasks may run.
    """
    # Because more blocks are requested than there are read tasks, Ray splits the output of each
    # read task: 4,096 items are one object until they are needed, then 4,096 blocks of one row.
    data: Any = ray.data  # its types leave out those of the rows
    source = data.read_datasource(
        _Items(items), override_num_blocks=items, num_cpus=0, concurrency=1
    )
    run: Any = _blocks  # Ray's type for functions leaves out fn_kwargs
    stream = source.map_batches(
        run,
        fn_kwargs={"block": block},
        batch_size=None,
        batch_format="numpy",
        num_cpus=num_cpus,
    )
    # None: a task's output stays one block. Otherwise Ray cuts blocks beyond 128 MiB, and the
    # pieces would be dealt to different ranks.
    stream.context.target_max_block_size = None
    options = stream.context.execution_options
    options.preserve_order = True  # blocks are dealt out in turn: rank r gets its slice
    options.label_selector = nodes or None
    from ray.data._internal.execution import backpressure_policy as of_ray

    policy = partial(_few_wait, ahead=ahead, num_cpus=num_cpus, nodes=nodes)
    stream.context.set_config(
        of_ray.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [of_ray.ConcurrencyCapBackpressurePolicy, policy],
    )
    # Ray takes an item off the plan at each look while it believes that memory is short.
    stream.context.output_backpressure_guard_release_interval_s = 10.0
    # Ray ends a stream none of whose blocks moved for half an hour. A trainer may evaluate for as
    # long, or a task may wait for a node that long.
    stream.context.execution_no_progress_timeout_s = -1
    stream.context.enable_progress_bars = False  # five lines a second in a job's log
    return stream


def _few_wait(*arguments: Any, **limits: Any) -> Any:
    """The policy; tasks get this name with the context, and do not import what it needs."""
    from storage.backpressure import FewWait

    return FewWait(*arguments, **limits)


class _Items(Datasource):
    """The integers [0, items), 4,096 per read task."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self._items = items

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the integers."""
        return 8 * self._items

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """As few tasks as possible, of equal size, so that Ray splits them into single rows."""
        tasks = -(-self._items // _ITEMS_PER_READ_TASK)
        return [
            ReadTask(
                partial(_item_rows, part.start, part.stop),
                BlockMetadata(
                    num_rows=len(part),
                    size_bytes=8 * len(part),
                    input_files=None,
                    exec_stats=None,
                ),
            )
            for part in even_ranges(self._items, tasks)
        ]


def _item_rows(start: int, stop: int) -> list[Any]:
    arrow: Any = pyarrow
    return [arrow.table({"item": np.arange(start, stop, dtype=np.int64)})]
