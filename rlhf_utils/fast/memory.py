"""Freed memory on Linux: kept for the next step, and handed back now and then."""

import ctypes
import functools
import os
import sys
import time

from torch.optim.optimizer import register_optimizer_step_post_hook

# Each new shape of a bfloat16 product leaves a kernel and its buffers behind. The default keeps
# 1024 of them: a gigabyte. A PPO update has about 100 shapes, and making them anew takes a
# twentieth of its time. oneDNN reads this at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "150")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt's options
SECONDS_BETWEEN = 5.0  # of optimizer steps; a release costs tenths of a second

_last_release = 0.0


@functools.cache
def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks: asking for them anew costs up to a third of the time.

    Batches differ in shape and leave holes that would add up to gigabytes. So an optimizer step
    hands freed memory back if SECONDS_BETWEEN have passed since the last time.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        register_optimizer_step_post_hook(_release_now_and_then)


def release_freed_memory() -> None:
    global _last_release
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    _last_release = time.monotonic()


def _release_now_and_then(*_) -> None:
    if time.monotonic() - _last_release >= SECONDS_BETWEEN:
        release_freed_memory()


@functools.cache
def _glibc():
    """glibc, or None on other systems and C libraries."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
