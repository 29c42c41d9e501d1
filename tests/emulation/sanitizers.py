"""Running Python under AddressSanitizer and UndefinedBehaviorSanitizer."""

from tests.emulation import build


def environment() -> dict[str, str]:
    """Return the variables of a process that loads sanitized kernels.

    libasan must come first into the process. Python and torch keep memory until the end.
    """
    libraries = ("libasan.so", "libubsan.so")
    paths = [build.output("g++", f"-print-file-name={name}").strip() for name in libraries]
    return {"LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": "detect_leaks=0"}
