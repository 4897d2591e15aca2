"""How far Ray Data reads the plan of a stream ahead, and how many tasks decode it.

These rules replace those of Ray Data (2.60) on what waits, because of four things:

Ray limits what an operator produces by bytes. The items of a plan have eight bytes each, so it
would read all of them as fast as it can: with a process and a half, for the first minutes of
100,000 steps and the first hours of a long training, and it would keep all items in memory.

By bytes it would also decode small images for minutes before they are needed.

Once as many blocks wait for the trainers as may, nothing runs. The executor then has nothing to
wait for, and looks again without a pause.

Ray counts what the trainers hold, and starts no task while that is much of its limit. They may then
wait forever: `streaming_split` deals a block only when there is one for each rank.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.backpressure_policy import BackpressurePolicy

from storage.ahead import Ahead, capacity

_LOOK_SECONDS = 0.05
"""From one look to the next; a look takes 2 ms of a CPU. It is also how long a look waits for tasks
that finish, instead of 100 ms: a process has its next task after two looks."""
_REST_SECONDS = 0.4
"""The longest time between two looks while no task runs. The waiting blocks last longer."""
_CAPACITY_SECONDS = 5.0
_ITEMS = 16


class FewWait(BackpressurePolicy):
    """Read the plan as items are needed, and run as many tasks ahead as blocks may wait."""

    def __init__(
        self,
        context: Any,
        topology: Any,
        resources: Any,
        *,
        ahead: Ahead,
        num_cpus: float,
        nodes: Mapping[str, str] | None,
    ) -> None:
        """Take the limits, the CPUs of a task, and the label selector for where tasks may run."""
        super().__init__(context, topology, resources)
        self._ahead, self._num_cpus, self._nodes = ahead, num_cpus, nodes
        self._looked, self._pause = 0.0, _LOOK_SECONDS
        self._capacity, self._capacity_time = (0.0, 0.0), -math.inf
        streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = _LOOK_SECONDS

    def can_add_input(self, op: Any) -> bool:
        """Whether `op` may start another task."""
        return not self._enough(op)

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """0 for an operator that is to stop. Each look asks this once of each operator."""
        if not _reads_plan(op):
            return None
        enough = self._enough(op)
        if enough or op.has_execution_finished():
            # actors too get work by a look
            works = any(each.num_active_tasks() for each in self._topology if not _reads_plan(each))
            self._pause = _LOOK_SECONDS if works else min(1.5 * self._pause, _REST_SECONDS)
            time.sleep(max(0.0, self._looked + self._pause - time.monotonic()))
        self._looked = time.monotonic()
        return 0 if enough else None

    def _enough(self, op: Any) -> bool:
        """Whether enough items wait for tasks, or enough blocks for the consumers."""
        topology: Any = self._topology
        waiting = topology[op].total_enqueued_output_blocks()
        if _reads_plan(op):
            running = sum(after.num_active_tasks() for after in op.output_dependencies)
            return waiting >= _ITEMS + 2 * running
        if not any(map(_reads_plan, op.input_dependencies)):
            return False  # actors take no more than they can
        running = op.num_active_tasks()
        in_use = running
        for after in op.output_dependencies:
            waiting += after.internal_input_queue_num_blocks()
            in_use += after.num_active_tasks()
            if not after.name.startswith("Map"):  # it deals blocks out
                waiting += topology[after].total_enqueued_output_blocks()
        tasks, most, room = self._limits()
        return running >= tasks or waiting >= most or waiting + in_use >= room

    def _limits(self) -> tuple[int, int, int]:
        """Tasks at once, blocks that may wait, and blocks that wait or are in use.

        Only finished blocks count as waiting, so that nodes which join later get work at once.
        """
        if time.monotonic() > self._capacity_time + _CAPACITY_SECONDS:
            self._capacity, self._capacity_time = capacity(self._nodes), time.monotonic()
        cpus, store = self._capacity
        ahead = self._ahead
        tasks = max(1, math.ceil(ahead.share * cpus / self._num_cpus))
        room = int(ahead.share * store / 2 / ahead.block_bytes)
        return tasks, max(ahead.each * ahead.consumers, 4 * tasks), max(2 * ahead.consumers, room)


def _reads_plan(op: Any) -> bool:
    return op.name.startswith("Read")
