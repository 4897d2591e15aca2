"""Import DeepSpeed as a worker without a GPU does, for processes that are forked afterwards."""

import gc

import torch._dynamo  # noqa: F401  # the first optimizer imports it

from cluster.deepspeed_import import import_deepspeed
from cluster.engine import prepare_worker

prepare_worker(rank=0, local_rank=0, world_size=1, gpu=False, verbose=False)
import_deepspeed()
gc.freeze()  # level 3 collects garbage at each start: 0.2 s of looking at modules
