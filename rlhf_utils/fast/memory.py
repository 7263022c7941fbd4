"""TODO: purpose."""

import ctypes
import functools
import itertools
import sys

from torch.optim.optimizer import register_optimizer_step_post_hook


@functools.cache
def keep_freed_memory() -> None:
    """Tells glibc not to hand freed blocks back at once, since asking for them anew costs a CPU run up to a third of its time, but at
    every 16th step of an optimizer: batches differ in shape, and the holes that they leave would add up to gigabytes."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        steps = itertools.count(1)
        register_optimizer_step_post_hook(lambda *_: next(steps) % 16 or release_freed_memory())


def release_freed_memory() -> None:
    """Hands what has been freed back to the system, the holes between what is in use too; takes some hundredths of a second."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
