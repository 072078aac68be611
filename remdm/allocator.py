"""Keeping freed memory for the next batch.

glibc gives every large activation back to the kernel when it is freed and takes it page by page
when the next batch needs it, which costs a CPU training step up to half of its time.
"""

import ctypes
import sys

# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_allocations() -> bool:
    """Let this process hold on to freed memory; True where the C library allows it.

    The same as starting it with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set high.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    wanted = {
        _M_MMAP_THRESHOLD: 1 << 30,
        _M_TRIM_THRESHOLD: (1 << 31) - 1,
        _M_TOP_PAD: 1 << 28,
    }
    taken = [mallopt(parameter, value) == 1 for parameter, value in wanted.items()]
    return all(taken)
