"""Show that a built extension holds every CUDA kernel of docs/kernels.md, for each architecture.

python scripts/check_binary.py EXTENSION.so CUOBJDUMP
"""

import re
import subprocess
import sys

from kernel_nvcc import readable
from kernel_resources import TABLE

ARCHITECTURES = ("sm_80", "sm_90")
PTX = "90"


def main(extension: str, cuobjdump: str) -> None:
    def dump(option: str) -> str:
        command = [cuobjdump, option, extension]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    wanted = set(re.findall(r"^\| `(.+?)`", TABLE.read_text(), re.MULTILINE))
    found: dict[str, set[str]] = {}
    for part in dump("--dump-elf-symbols").split("arch = ")[1:]:
        kernels = re.findall(r"STT_FUNC\s+STB_GLOBAL\s+STO_ENTRY\s+(\S+)", part)
        found.setdefault(part.split()[0], set()).update(map(readable, kernels))
    for arch in ARCHITECTURES:
        inside = found.get(arch, set())
        if inside != wanted:
            lack, extra = sorted(wanted - inside), sorted(inside - wanted)
            sys.exit(f"{arch}: lacks {lack}, and has beyond docs/kernels.md {extra}")
        print(f"{arch}: all {len(inside)} kernels of docs/kernels.md are inside")
    if not re.search(rf"\b(?:sm|compute)_{PTX}\b", dump("-lptx")):
        sys.exit(f"no PTX of compute_{PTX} for later architectures")
    print(f"PTX of compute_{PTX} for later architectures is inside")


if __name__ == "__main__":
    main(*sys.argv[1:])
