"""How far Ray Data reads the plan of a stream ahead, and how often it looks what there is to do.

Three things that the executor of Ray Data (2.60) does not limit took a CPU from the trainers:

Ray limits what an operator produces by bytes. The items of a plan have eight bytes each, so it
would read all of them as fast as it can: with a process and a half, for the first minutes of
100,000 steps and the first hours of a long training, and it would keep all items in memory.

By bytes it would also decode small images for minutes before they are needed.

Once as many blocks wait for the trainers as may, nothing runs. The executor then has nothing to
wait for, and looks again without a pause.
"""

import time
from typing import Any

from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.backpressure_policy import BackpressurePolicy

_LOOK_SECONDS = 0.02
"""From one look to the next. It is also how long a look waits for tasks that finish, instead of
100 ms: a process has its next task after two looks, and a look takes two items off the plan."""
_WAITING = 16


class FewWait(BackpressurePolicy):
    """Read the plan as items are needed, and run as many tasks ahead as blocks may wait."""

    def __init__(self, context: Any, topology: Any, resources: Any, *, most: int) -> None:
        super().__init__(context, topology, resources)
        self._most = most
        self._looked = 0.0
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
            time.sleep(max(0.0, self._looked + _LOOK_SECONDS - time.monotonic()))
        self._looked = time.monotonic()
        return 0 if enough else None

    def _enough(self, op: Any) -> bool:
        """Whether enough items wait for tasks, or enough blocks for the consumers."""
        topology: Any = self._topology
        waiting = topology[op].total_enqueued_output_blocks()
        if _reads_plan(op):
            running = sum(after.num_active_tasks() for after in op.output_dependencies)
            return waiting >= _WAITING + 2 * running
        if not op.name.startswith("Map"):
            return False
        waiting += sum(topology[n].total_enqueued_output_blocks() for n in op.output_dependencies)
        return waiting >= self._most  # CPUs that join later are all used


def _reads_plan(op: Any) -> bool:
    return op.name.startswith("Read")
