"""Kernels of planted.cu and racing.cu by their names.

python -m tests.emulation.planted LIBRARY NAME ...     their messages under five seeds, as JSON
"""

import ctypes
import json
import sys

ORDERS = range(5)  # 0: ascending; the others shuffled
NUMBERS = 512


def run(library: ctypes.CDLL, name: str, seed: int = 0) -> list[float]:
    """Run a kernel and return what it wrote; raises RuntimeError with its message."""
    library.emulation_configure(seed, 512)
    out = (ctypes.c_double * NUMBERS)()
    message = ctypes.create_string_buffer(4000)
    library.planted.restype = ctypes.c_bool
    if library.planted(name.encode(), out, message, ctypes.c_size_t(len(message))):
        raise RuntimeError(message.value.decode())
    return list(out)


def message(library: ctypes.CDLL, name: str, seed: int) -> str:
    """Return what it raises, or nothing."""
    try:
        run(library, name, seed)
    except RuntimeError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    kernels = ctypes.CDLL(sys.argv[1])
    found = {name: [message(kernels, name, seed) for seed in ORDERS] for name in sys.argv[2:]}
    print(json.dumps(found))
