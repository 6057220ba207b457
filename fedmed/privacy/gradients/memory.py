"""Memory of the process: what a step frees stays for the next step."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
_LARGE = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks up to a gigabyte; False where there is no such setting.

    By default it hands large blocks back to the system and asks for them again at every step: on
    a CPU up to a third of a step then goes into fresh pages, with or without privacy. The setting
    is the process's, and the peak of its memory stays what it was.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        setting = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(setting(_MMAP_THRESHOLD, _LARGE)) and bool(setting(_TRIM_THRESHOLD, _LARGE))
