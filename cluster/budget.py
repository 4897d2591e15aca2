"""Formulas for the bytes that training needs per worker: memory by ZeRO level, and network traffic.

The model states are those of ZeRO (arXiv:1910.02054, section 3.1 and figure 1), and two more of our
engine: the Polyak average is one more optimizer state, and from level 1 on float32 training keeps a
master copy too. The buffers are those of DeepSpeed 0.19.8; the sizes below are its defaults, except
for the one that `cluster.zero` sets.
"""

from dataclasses import dataclass

from cluster.settings import ZeroLevel

MASTER_BYTES = 4
"""Bytes of a number in the master weights and in an optimizer state: float32."""
REDUCE_BUCKET = 50_000_000
"""Numbers in the buffer that collects gradients before they are reduced; it is allocated at once.
`cluster.zero` sets it: DeepSpeed's default is ten times as large and takes 2 GB in float32, and
more in copies, although messages of 100 MB already use the network fully."""
_REDUCED_AT_ONCE = 500_000_000
"""Size of that buffer at level 0, which cannot be set in DeepSpeed."""
LIVE_WEIGHTS = 1_000_000_000
"""Gathered weights that level 3 keeps (`stage3_max_live_parameters`, `_max_reuse_distance`)."""
PREFETCHED_WEIGHTS = 50_000_000
"""Weights that level 3 gathers at once (`stage3_prefetch_bucket_size`)."""


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes on one worker that do not depend on the micro-batch."""

    weights: int
    """Weights in the precision of the forward pass; at level 3 only this worker's part."""
    master: int
    """Float32 weights that the optimizer updates."""
    optimizer: int
    """Optimizer states: Adam's two moments or SGD's momentum, and the average of the weights."""
    gathered: int
    """Weights gathered from other workers' parts at level 3."""
    arriving: int
    """Buffer for weights that are being gathered."""
    gradients: int
    """Gradients, kept from one micro-batch to the next and until the optimizer step."""
    bucket: int
    """Buffer for gradients that are being reduced over the workers."""
    bucket_grows: bool
    """Whether the bucket takes memory only as it is written to, while activations are freed (on a
    CPU), or all of it from the start (on a GPU; and at level 3, where it outlives the step)."""
    gradients_stand: bool
    """Whether the gradients' memory outlives the step: at level 3, and at level 1 if bfloat16
    gradients are summed in float32."""
    reducing: int
    """Copies made while the last gradients are reduced; activations are freed by then."""
    stepping: int
    """Memory for the optimizer step: gradients converted to float32, and AdamW's denominator.
    Bucket and activations are freed by then."""
    host: int
    """Bytes in host memory per worker."""

    @property
    def standing(self) -> int:
        """Bytes that are allocated all the time."""
        return self.weights + self.master + self.optimizer

    def peak(self, activations: int, *, accumulates: bool) -> int:
        """Peak memory in bytes.

        Args:
            activations: bytes that the forward and backward pass of a micro-batch hold.
            accumulates: whether gradients of an earlier micro-batch are kept meanwhile.
        """
        earlier = self.gradients if accumulates or self.gradients_stand else 0
        bucket = 0 if self.bucket_grows else self.bucket
        first = self.gathered + self.arriving + activations + earlier + bucket
        beside = earlier if self.bucket else self.gradients  # the bucket holds this one's
        last = self.gathered + self.bucket + max(beside + self.reducing, self.gradients)
        return self.standing + max(first, last, self.stepping)


def model_states(
    parameters: int,
    *,
    workers: int,
    level: ZeroLevel,
    element_bytes: int,
    optimizer_states: float,
    adam: bool,
    changes: bool = False,
    frozen: int = 0,
    offload: bool = False,
    on_gpu: bool = True,
    float32_sums: bool = False,
) -> States:
    """Memory of the model states and buffers on one worker.

    Args:
        parameters: number of trainable parameters.
        workers: number of workers that share the states.
        level: ZeRO level.
        element_bytes: bytes of a weight in the forward pass: 4 in float32, 2 in bfloat16.
        optimizer_states: float32 numbers kept per weight: moments and average.
        adam: whether the step computes the root of a second moment.
        changes: whether the step computes all changes before it adds one to its weight (LAMB, whose
            second moment's root becomes the change; Muon, of the matrices alone).
        frozen: number of parameters that are not trained: weights alone.
        offload: whether optimizer states are in host memory.
        on_gpu: whether workers have GPUs. A GPU allocates the whole bucket, and a second one to
            fill while the first is sent; on a CPU only the written part counts.
        float32_sums: whether gradients in bfloat16 are summed over micro-batches in float32
            (`cluster.zero.accumulates_in_float32`).
    """
    part = -(-parameters // workers)
    whole = parameters + frozen
    held = part if level else parameters  # of master, states
    bucket = REDUCE_BUCKET if on_gpu else min(parameters, REDUCE_BUCKET)
    if on_gpu and workers > 1 and level < 3:
        bucket *= 2  # overlap_comm
    # AdamW's denominator: on a GPU it is computed for all tensors at once and changed in place, on
    # a CPU tensor by tensor (a parameter, or a worker's whole part) and copied once.
    roots = (1 if on_gpu else 2 if level else 0) if adam else 0
    if changes:
        roots = 1
    states = round(MASTER_BYTES * held * optimizer_states)
    if level == 0:  # the parameters are the master weights, their gradients float32 already
        return States(
            weights=MASTER_BYTES * whole,
            master=0,
            optimizer=states,
            gathered=0,
            arriving=0,
            gradients=MASTER_BYTES * parameters,
            bucket=0,
            bucket_grows=True,
            gradients_stand=False,
            reducing=MASTER_BYTES * min(parameters, _REDUCED_AT_ONCE),
            stepping=MASTER_BYTES * parameters * (1 + roots),
            host=0,
        )
    summed_bytes = MASTER_BYTES if float32_sums else element_bytes
    gradients = summed_bytes * (parameters if level == 1 else part)
    master = MASTER_BYTES * part
    # The part's gradients are flattened, made float32 and then forgotten, before the step.
    becoming = 2 * summed_bytes * part + (MASTER_BYTES * part if summed_bytes < 4 else 0)
    stepping = max(becoming, MASTER_BYTES * part * (1 + roots))
    # Needed at level 1 on several CPUs, and at level 3. Elsewhere the plan is a little too large.
    copied = min(parameters, REDUCE_BUCKET)
    if float32_sums and level == 1 and not offload:
        # DeepSpeed's BF16_Optimizer keeps one sum of all gradients, steps on its part of it, and
        # reduces a copy of all of it.
        return States(
            weights=element_bytes * whole,
            master=master,
            optimizer=states,
            gathered=0,
            arriving=0,
            gradients=gradients,
            bucket=0,
            bucket_grows=not on_gpu,
            gradients_stand=True,
            reducing=MASTER_BYTES * parameters,
            stepping=gradients + MASTER_BYTES * part * roots,
            host=0,
        )
    gathered = arriving = 0
    if level == 3:
        copied += min(part, REDUCE_BUCKET)  # the copy sorted by workers, and the result
        # gathered into one buffer, then copied out of it
        arriving = element_bytes * min(whole, PREFETCHED_WEIGHTS) if workers > 1 else 0
        gathered = element_bytes * min(whole, LIVE_WEIGHTS)
    on_host = master + states + gradients if offload else 0
    return States(
        weights=element_bytes * (-(-whole // workers) if level == 3 else whole),
        master=0 if offload else master,
        optimizer=0 if offload else states,
        gathered=gathered,
        arriving=arriving,
        gradients=gradients,
        bucket=element_bytes * bucket,
        bucket_grows=level < 3 and not on_gpu,
        gradients_stand=level == 3,
        # with float32 sums: the gradients that were just reduced, before they are added
        reducing=element_bytes * copied + (MASTER_BYTES * part if float32_sums else 0),
        stepping=gradients if offload else stepping + (gradients if level == 3 else 0),
        host=on_host,
    )


def network_bytes(
    parameters: int,
    *,
    workers: int,
    level: ZeroLevel,
    element_bytes: int,
    frozen: int = 0,
    accumulation: int = 1,
    float32_sums: bool = False,
    added_up: int = 0,
) -> int:
    """Bytes that each worker sends in one optimizer step (and as many that it receives).

    A ring all-reduce of S bytes sends 2 (n-1)/n S, a reduce-scatter or an all-gather (n-1)/n S
    (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009). Levels 1 and 2 reduce by all-reduce
    in DeepSpeed 0.19.8, with `reduce_scatter` or without, and gather the stepped weights: half
    as much again as section 7 of arXiv:1910.02054. From level 2 on every micro-batch is reduced.
    Level 3 gathers the weights once per micro-batch if they can stay until its backward pass, and
    twice if they do not fit (`LIVE_WEIGHTS`). With `float32_sums`, level 1 reduces float32 sums.
    The `frozen` parameters, which are not trained, are only gathered, at level 3. The optimizer
    itself adds up `added_up` float32 numbers over the workers (Muon).
    """
    trained, whole = element_bytes * parameters, element_bytes * (parameters + frozen)
    share = (workers - 1) / workers
    if level == 0:
        sent = 2.0 * trained
    elif level < 3:
        wide = MASTER_BYTES / element_bytes if float32_sums and level == 1 else 1
        sent = (2.0 * (accumulation if level == 2 else wide) + 1) * trained
    else:
        gathers = 1 if parameters + frozen <= LIVE_WEIGHTS else 2
        sent = float(accumulation) * (trained + gathers * whole)
    return round(share * (sent + 2 * MASTER_BYTES * added_up))
