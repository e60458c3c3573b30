"""What only a CPU needs, switched on by the commands."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> None:
    """Let this process keep the memory that torch frees, for the next operation. Does nothing where there is no glibc.

    glibc gives large blocks back to the system, and the next activation of that size is fetched anew, page by page,
    each of them zeroed first (`python -m speed.bench memory`). A process then never shrinks below its peak.
    """
    trim_threshold, mmap_max = -1, -4  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows and macOS
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
