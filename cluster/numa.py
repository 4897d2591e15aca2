"""Keep a worker on the CPUs of its GPU's socket: its copies do not cross to the other one.

With two sockets, host memory is on one of them (NUMA). A worker that may run anywhere fills its
page-locked buffers on either, and half of the copies then share the link between the sockets.
`torchrun --numa-binding node` does the same; Ray has nothing like it.
"""

import os
from contextlib import suppress
from pathlib import Path

import torch

SYSFS = Path("/sys/bus/pci/devices")
LEAST = 4
"""CPUs that a worker needs, or as many as it has threads for arithmetic: a container may have been
given most of them on the other socket."""


def stay_beside(device: torch.device) -> None:
    """Bind all threads of this process, and those to come, to the CPUs beside a GPU.

    It stays as it is where the machine does not say which these are, has no others, or gives this
    process too few of them.
    """
    gpu = torch.cuda.get_device_properties(device)
    address = f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"
    allowed = os.sched_getaffinity(0)
    beside = cpus_beside(address) & allowed
    if len(beside) < max(LEAST, torch.get_num_threads()) or beside == allowed:
        return
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it ended
            os.sched_setaffinity(int(thread), beside)


def cpus_beside(address: str) -> set[int]:
    """CPUs on the socket of a PCI device, such as `0000:dc:00.0`; none if that is not known."""
    try:
        text = (SYSFS / address / "local_cpulist").read_text().strip()  # such as 0-47,96-143
    except OSError:
        return set()
    ranges = [part.split("-") for part in text.split(",") if part]
    return {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}
