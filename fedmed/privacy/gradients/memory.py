"""Memory of the process: what a step frees stays for the next step, or goes back at once."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
_LARGE, _SMALL = 2**30, 2**17  # bytes


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks up to a gigabyte; False where there is no such setting.

    By default it hands large blocks back to the system and asks for them again at every step: on
    a CPU up to a third of a step then goes into fresh pages, with or without privacy. The setting
    is the process's, and the peak of its memory stays what it was.
    """
    return _set(_MMAP_THRESHOLD, _LARGE) and _set(_TRIM_THRESHOLD, _LARGE)


def return_freed_memory() -> bool:
    """Let glibc hand every freed block of 128 KiB or more back; False where it has no such setting.

    For a process that holds models and trains none: by default glibc keeps what lies under a block
    that is still used, and a server's memory would be up to twice what it holds.
    """
    return _set(_MMAP_THRESHOLD, _SMALL) and _set(_TRIM_THRESHOLD, _SMALL)


def _set(name: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(name, value))
    except AttributeError:  # another C library
        return False
