"""Kinds of nodes for `pipelines/plan.py --on NAME`; every number can be overridden.

Each field says whether its numbers were measured, are from a data sheet or are assumed. Peaks are
NVIDIA's, without sparsity: A100 (312 TFLOP/s in bfloat16, 19.5 in float32), H100 SXM (989, 67),
H200 (989, 67), L40S (362, 91.6), A10G (70, 31.2).

Prices are list prices, good for the order of magnitude: of p4d, p4de and p5 on demand in us-east-1
on 9 November 2026 (after the cut of June 2025), of the others in early 2026, of S3 in us-east-1 on
27 November 2026. A p5e is reserved in advance: its price is that of a Capacity Block, in most
regions since January 2026. Spot prices are often half of the list's and change by the hour: pass
today's as `--cluster.dollars-per-node-hour`.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from cluster.errors import BadPlace
from pipelines.cli.place import place_of


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """Hardware and prices of one kind of node."""

    nodes: int | None = None
    """Number of nodes. None: as many as place.workers.max needs."""
    gpus: int = 0
    """GPUs per node (data sheet); 0 means training on CPUs."""
    memory_gibibytes: float = 16.0
    """Memory of a GPU, or of the node if it has none, in GiB: what CUDA reports. H200: measured;
    other GPUs: from error messages that people published; laptop: assumed."""
    bfloat16_tflops: float = 0.1
    """Peak TFLOP/s of a GPU in bfloat16, or of the node if it has none. GPUs: data sheet; laptop:
    assumed."""
    float32_tflops: float = 0.1
    """Peak TFLOP/s of a GPU in float32, or of the node if it has none. GPUs: data sheet; laptop:
    assumed."""
    mfu: float | None = None
    """Share of the peak that training reaches (model FLOPs utilisation), for all stages. None: by
    the model's size and place.compile, as measured on an H200 (docs/gpu.md); assumed for other
    GPUs, small models and CPUs. Measure yours: python -m benchmarks.gpu mfu."""
    link_gigabytes: float = 10.0
    """Bandwidth between two GPUs of a node, one way, in GB/s. Data sheet: NVLink (A100, H100, H200)
    or PCIe 4.0 with 16 lanes (L40S, A10G); laptop: assumed."""
    network_gigabytes: float = 1.25
    """Network bandwidth of a node, one way, in GB/s. Data sheet: of the cards that cluster/aws.yaml
    and cluster/gcp.yaml attach to p4d, p5, a2 and a3, not of all that a node could have; of all
    cards for other nodes. h200 and laptop: assumed."""
    cpus: int = 2
    """CPUs per node. Clouds: data sheet, which counts two for a core; h200 and laptop: assumed."""
    decode_milliseconds: float = 1.9
    """CPU time to read, decode and crop a photograph of 110 kB (ImageNet's mean) to 224 px.
    Measured on one core (docs/benchmarks.md): 1.9 without libturbojpeg 3, as in the image of
    cluster/Dockerfile; 1.45 with it. That other images count by their bytes is assumed."""
    reserve_gibibytes: float = 1.5
    """GPU memory that training cannot use: CUDA context, buffers of NCCL and cuBLAS. Assumed."""
    fragmentation: float = 0.08
    """Memory that the allocator keeps beyond what is in use, as a fraction of that. GPUs: assumed;
    CPUs: measured (glibc's heap, benchmarks/memory.py --heap)."""
    dollars_per_node_hour: float = 0.0
    """List price of a node per hour, of November 2026 (p4d, p4de, p5), January 2026 (p5e) or early
    2026 (others). Spot is often half."""
    dollars_per_million_reads: float = 0.4
    """Price of a million read requests to the storage: GET of S3 Standard, November 2026."""
    dollars_per_million_writes: float = 5.0
    """Price of a million write requests to the storage, one per 16 MiB: PUT of S3 Standard,
    November 2026."""
    dollars_per_gigabyte_read: float = 0.0
    """Price of a GB read from the storage: 0 within a region, 0.02 between two, 0.09 outside.
    S3, November 2026."""

    def tflops(self, precision: str) -> float:
        """Return the peak TFLOP/s of a GPU (or of a node without GPUs) in a stage's precision."""
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
        if self.mfu is not None and not 0 < self.mfu <= 1:
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
    """Make a GPU node from GiB and (bfloat16, float32) TFLOP/s per GPU, GB/s, dollars per hour."""
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


_EFA = 4 * 12.5  # GB/s
HOPPER_TFLOPS = 989.0
"""Peak of H100 (SXM) and H200 in bfloat16. The plan knows these cards by it."""
_A100, _H100, _L40S, _A10G = (312.0, 19.5), (HOPPER_TFLOPS, 67.0), (362.0, 91.6), (70.0, 31.2)
NODE_KINDS = MappingProxyType(
    {
        # No GPU. glibc's heap held 1.2 to 1.5 times what was in use.
        "laptop": NodeKind(reserve_gibibytes=4.0, fragmentation=0.4),
        # AWS: 8 x A100 40 GB (cluster/aws.yaml), 8 x A100 80 GB, 8 x H100, 8 x H200, 8 x L40S, A10G
        "p4d": _gpus(39.4, _A100, link=300, network=_EFA, cpus=96, dollars=22.0),
        "p4de": _gpus(79.2, _A100, link=300, network=_EFA, cpus=96, dollars=27.4),
        "p5": _gpus(79.2, _H100, link=450, network=_EFA, cpus=192, dollars=55.0),
        "p5e": _gpus(139.8, _H100, link=450, network=_EFA, cpus=192, dollars=39.8),
        "g6e": _gpus(44.4, _L40S, link=32, network=_EFA, cpus=192, dollars=30.1),
        "g5": _gpus(22.0, _A10G, link=32, network=12.5, cpus=192, dollars=16.3),
        # Google Cloud: 8 x A100 40 GB (cluster/gcp.yaml), 8 x H100
        "a2-highgpu-8g": _gpus(39.4, _A100, link=300, network=12.5, cpus=96, dollars=29.4),
        "a3-highgpu-8g": _gpus(79.2, _H100, link=450, network=25, cpus=208, dollars=88.3),
        # One GPU of your own
        "h200": _gpus(139.8, _H100, count=1, link=450, network=1.25, cpus=16, dollars=0.0),
    }
)


def find_node_kind(name: str) -> NodeKind:
    """Return the kind of node with that name. Raises BadPlace, listing the known ones."""
    if name not in NODE_KINDS:
        raise BadPlace(f"--on {name}: no such kind of node - there are: {', '.join(NODE_KINDS)}")
    return NODE_KINDS[name]


def default_kind(config: Path) -> str:
    """Return the default of `--on`: this machine, or with GPUs the nodes of cluster/aws.yaml."""
    return "p4d" if place_of(config).workers.gpus else "laptop"
