"""What the kernel tells of a process: the CPU time it took, the memory it has; and on which core it runs."""

import ctypes
import os
import platform
import resource
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

ALL_CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE = ALL_CORES[0]
SERVER_CORE = ALL_CORES[-1]
"""One each; the same where there is only one."""


def cpu_ns(process_id: int) -> int:
    """CPU time (user and system, all threads, also those that ended) that a process has used, in nanoseconds.

    The same account as user + system in /proc/<pid>/stat, which is shown there in ticks of 10 ms.
    """
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(process_id, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime_ns(clock.value)


def memory_bytes(process_id: int) -> int:
    """A process's proportional share (PSS) of the memory it has mapped, in bytes."""
    for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel tells no PSS")


def raise_open_files(wanted: int) -> None:
    """Let this process and its children open so many files. Raises RuntimeError where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):
        raise RuntimeError(f"{wanted} open files are needed, and {hard} are allowed here (ulimit -Hn)") from None


def facts() -> dict[str, str]:
    """What the machine is, for the report."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "Processor": f"{model}, {len(ALL_CORES)} cores",
        "Memory": f"{memory / 2**20:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "C library": " ".join(platform.libc_ver()),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
