"""Kinds of nodes as `pipelines/plan.py --on NAME` knows them; every number can be overridden.

Peaks are the vendors' data sheets, without sparsity: NVIDIA A100 (312 TFLOP/s in bfloat16, 19.5 in
float32), H100 SXM (989, 67), H200 (989, 67), L40S (362, 91.6), A10G (70, 31.2). Prices are list
prices on demand of early 2026 and only say how large the bill is: spot is often half of them, and
changes by the hour - give `--cluster.dollars-per-node-hour` what your cloud says today.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from cluster.errors import BadPlace
from pipelines.cli.place import place_of


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """Nodes of one kind."""

    nodes: int | None = None
    """Nodes that train. None: as many as hold place.workers.max."""
    gpus: int = 0
    """GPUs of a node; 0 trains on its CPUs."""
    memory_gibibytes: float = 16.0
    """Memory of a GPU; without GPUs, of the node."""
    bfloat16_tflops: float = 0.1
    """Peak of a GPU in bfloat16, TFLOP/s; without GPUs, of the node."""
    float32_tflops: float = 0.1
    """Peak of a GPU in float32, TFLOP/s; without GPUs, of the node."""
    mfu: float = 0.4
    """Share of the peak that training reaches (model FLOPs utilisation, arXiv:2204.02311, appendix
    B). Measure yours: python -m benchmarks.model --device cuda --dtype bfloat16."""
    link_gigabytes: float = 10.0
    """GB/s between two GPUs of a node, one way."""
    network_gigabytes: float = 1.25
    """GB/s of a node's network, one way."""
    cpus: int = 2
    """CPUs of a node."""
    decode_milliseconds: float = 2.4
    """CPU time to decode and crop a photograph of 110 kB, ImageNet's mean; others take theirs in
    proportion to their bytes. Measured at 224 px on one core."""
    reserve_gibibytes: float = 1.5
    """Memory of a GPU that is never ours: CUDA's context, NCCL's and cuBLAS' buffers. A guess."""
    fragmentation: float = 0.08
    """Memory that the allocator keeps on top of what is in use, as a share of it. A guess on GPUs;
    measured on CPUs (glibc's heap)."""
    dollars_per_node_hour: float = 0.0
    """Price of a node."""
    dollars_per_million_reads: float = 0.4
    """Price of reading requests to the storage (S3 Standard: GET)."""
    dollars_per_million_writes: float = 5.0
    """Price of writing requests to the storage (S3 Standard: PUT), one for each 16 MiB."""
    dollars_per_gigabyte_read: float = 0.0
    """Price of bytes from the storage: nothing within a region, $0.02 between two, $0.09 out."""

    def tflops(self, precision: str) -> float:
        """Peak of a GPU (of a node without one) in a stage's precision, TFLOP/s."""
        if precision == "bfloat16":
            return self.bfloat16_tflops
        if precision == "tf32" and self.gpus:  # half of bfloat16's in each data sheet named above
            return self.bfloat16_tflops / 2
        return self.float32_tflops

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and value < 0:
                raise BadPlace(f"cluster.{entry.name}: wanted at least 0, found {value:g}")
        for name in ("memory_gibibytes", "bfloat16_tflops", "float32_tflops", "cpus"):
            if not getattr(self, name) > 0:
                raise BadPlace(f"cluster.{name}: wanted more than 0, found {getattr(self, name)}")
        if not 0 < self.mfu <= 1:
            raise BadPlace(f"cluster.mfu: wanted within (0, 1], found {self.mfu:g}")
        if self.nodes is not None and self.nodes < 1:
            raise BadPlace(f"cluster.nodes: wanted at least 1, found {self.nodes}")


def _gpus(
    memory: float,
    peak: tuple[float, float],
    *,
    count: int = 8,
    link: float,
    network: float,
    cpus: int,
    dollars: float,
) -> NodeKind:
    """A node of GPUs: GiB each, (bfloat16, float32) TFLOP/s each, GB/s, $ an hour."""
    return NodeKind(
        gpus=count,
        memory_gibibytes=memory,
        bfloat16_tflops=peak[0],
        float32_tflops=peak[1],
        link_gigabytes=link,
        network_gigabytes=network,
        cpus=cpus,
        dollars_per_node_hour=dollars,
    )


_A100, _H100, _L40S, _A10G = (312.0, 19.5), (989.0, 67.0), (362.0, 91.6), (70.0, 31.2)
NODE_KINDS = MappingProxyType(
    {
        # No GPU. glibc's heap held 1.2 to 1.5 times what was in use: benchmarks/memory.py --heap
        "laptop": NodeKind(reserve_gibibytes=4.0, fragmentation=0.4),
        # AWS: 8 x A100 40 GB (cluster/aws.yaml), 8 x A100 80 GB, 8 x H100, 8 x H200, 8 x L40S, A10G
        "p4d": _gpus(40, _A100, link=300, network=50, cpus=96, dollars=32.8),
        "p4de": _gpus(80, _A100, link=300, network=50, cpus=96, dollars=41.0),
        "p5": _gpus(80, _H100, link=450, network=400, cpus=192, dollars=80.6),
        "p5e": _gpus(141, _H100, link=450, network=400, cpus=192, dollars=85.0),
        "g6e": _gpus(48, _L40S, link=32, network=50, cpus=192, dollars=30.1),
        "g5": _gpus(24, _A10G, link=32, network=12.5, cpus=192, dollars=16.3),
        # Google Cloud: 8 x A100 40 GB (cluster/gcp.yaml), 8 x H100
        "a2-highgpu-8g": _gpus(40, _A100, link=300, network=12.5, cpus=96, dollars=29.4),
        "a3-highgpu-8g": _gpus(80, _H100, link=450, network=100, cpus=208, dollars=88.3),
        # One GPU of your own
        "h200": _gpus(141, _H100, count=1, link=450, network=1.25, cpus=16, dollars=0.0),
    }
)


def find_node_kind(name: str) -> NodeKind:
    """The kind of node of that name. Raises BadPlace, which names those there are."""
    if name not in NODE_KINDS:
        raise BadPlace(f"--on {name}: no such kind of node - there are: {', '.join(NODE_KINDS)}")
    return NODE_KINDS[name]


def default_kind(config: Path) -> str:
    """Without `--on`: this machine, or where workers hold GPUs the nodes of cluster/aws.yaml."""
    return "p4d" if place_of(config).workers.gpus else "laptop"
