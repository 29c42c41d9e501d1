"""What ptxas and the machine code say of every CUDA kernel, as the tables in docs/kernels.md.

python scripts/kernel_resources.py            compile, compare with the tables both ways
python scripts/kernel_resources.py --write    compile and write the tables

Needs nvcc and nvdisasm, no GPU. Warnings are errors, a spill is an error, and so is a kernel that
the tables lack, have too many, that needs other resources than they say (if this nvcc is theirs),
or that something else than memory bounds without a sentence that says why (kernel_bounds.py).
"""

import re
import shutil
import sys

import kernel_bounds
from kernel_nvcc import ROOT, Resources, compile_all, run

TABLE = ROOT / "docs" / "kernels.md"
OCCUPANCY_ARCH = "sm_90"
WARPS, BLOCKS, REGISTERS, SHARED = 64, 32, 65536, 233472  # of a multiprocessor of sm_90

# Why a kernel below half of the warps that fit is fast enough all the same.
LOW = {
    "attention_second_rows": "in float64 alone, in which networks are checked and not trained: its "
    "exponential takes the registers.",
    "deepfool_candidate_whole": "a thread has two loads of 16 bytes in flight, so 30 warps have "
    "31 KB, where 4.8 TB/s times a latency of 0.8 us would ask 29 KB of each of 132 "
    "multiprocessors.",
    "deepfool_step_whole": "a thread has a load of each of eleven rows in flight: 67 KB in 12 "
    "warps with 16-byte loads; 13 to 34 KB in the forms `<..., 1>`, for rows whose distance 16 "
    "bytes do not divide, which are slower for it.",
    "deepfool_step_measure": "the same eleven loads in flight, in at least 16 warps.",
    "halfspace_projection_whole": "the sums of a sweep, one for each pair of half-spaces, take the "
    "registers, 45 of them in the form for more than three. The rows of a sample of images come "
    "from the first-level cache after the first sweep, so few warps are enough to wait for them.",
    "norm_rows": "in float64, in which networks are checked and not trained; and in the second "
    "derivative of half types, where 20 warps with three loads of 16 bytes each have 30 KB in "
    "flight, and of tensors that begin at different distances from a boundary (`<..., 1>`): their "
    "sums take the registers.",
}

HEAD = """# The CUDA kernels' resources

Written by `make kernels` (nvcc {nvcc}); `make check-kernels` compares it with the sources both
ways. One row per instantiation: registers per thread on {archs};
shared memory (static), stack and spills in bytes, the largest over the architectures. Threads: of a
block for rows of 3,072 entries, or for parts of 2,048, as `teams_for` in `csrc/kernels/launch.cuh`
chooses them. Occupancy: the share of an {occupancy_arch} multiprocessor's {warps} warps that fit at
that block size by registers, static shared memory and blocks.

"""


def threads(kernel: str) -> int:
    """Return the threads of a block: four packs of 16 bytes each, whole warps, at least 128.

    Kernels in which each thread has a result or a pack to itself have 256.
    """
    if "max_pool" in kernel or "activation" in kernel:
        return 256
    if any(word in kernel for word in ("join", "decide", "orthonormal", "columns")):
        return 128
    entries = 3072 if "whole" in kernel else 2048
    size = 8 if "double" in kernel else 4 if "float" in kernel and "bfloat" not in kernel else 2
    most = 256 if "halfspace" in kernel else 512
    team = min(most, -(-entries * size // 64 // 32) * 32)
    return 128 if team == 32 else team


def occupancy(kernel: str, resources: Resources) -> float:
    """Return the share of a multiprocessor's warps that fit, by NVIDIA's occupancy rules."""
    warps = threads(kernel) // 32
    per_warp = -(-resources.registers * 32 // 256) * 256
    by_registers = REGISTERS // per_warp // 4 * 4 // warps
    by_shared = SHARED // (1024 + -(-resources.shared // 128) * 128)
    return min(WARPS // warps, by_registers, by_shared, BLOCKS) * warps / WARPS


def rows(found: dict[str, dict[str, Resources]]) -> list[str]:
    """Return the lines of the table, and below them the reasons of what is low."""
    archs = list(found)
    head = ["kernel", *archs, "shared", "stack", "spills", "threads", "occupancy"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    low = set()
    for kernel in sorted(found[archs[0]]):
        by_arch = [found[arch][kernel] for arch in archs]
        share = occupancy(kernel, found[OCCUPANCY_ARCH][kernel])
        if share < 0.5:
            low.add(kernel.split("<")[0])
        cells = [f"`{kernel}`", *(str(r.registers) for r in by_arch)]
        cells += [str(max(r[i] for r in by_arch)) for i in (1, 2, 3)]
        cells += [str(threads(kernel)), f"{100 * share:.0f}%"]
        lines.append(f"| {' | '.join(cells)} |")
    if low != set(LOW):
        sys.exit(f"below half of the warps: {sorted(low)}; explained in LOW: {sorted(LOW)}")
    return [*lines, "", *(f"- `{kernel}`: {why}" for kernel, why in LOW.items())]


def main() -> None:
    """Compile, then write the table or compare with it."""
    if not shutil.which("nvcc"):
        sys.exit("kernel_resources: nvcc is not on the PATH")
    nvcc = re.search(r"V(\d\S+)", run("nvcc", "--version")).group(1)
    archs = list(kernel_bounds.CARDS)
    found = compile_all(archs)
    names = {"archs": ", ".join(archs), "occupancy_arch": OCCUPANCY_ARCH, "warps": WARPS}
    table = rows({arch: found[arch].resources for arch in archs})
    bounds = kernel_bounds.page({arch: found[arch].code for arch in archs})
    text = HEAD.format(nvcc=nvcc, **names) + "\n".join([*table, "", *bounds]) + "\n"
    if "--write" in sys.argv:
        TABLE.write_text(text)
        print(f"written: {TABLE.relative_to(ROOT)}")
        return
    compare(TABLE.read_text(), text, nvcc)


def compare(old: str, new: str, nvcc: str) -> None:
    """Exit with the differing lines, if the table was made by this nvcc."""
    made_by = re.search(r"\(nvcc (\S+)\)", old)
    if made_by and made_by.group(1) != nvcc:
        print(f"no spill; resources not compared: the table is of nvcc {made_by.group(1)}")
        return
    gone = [f"- {line}" for line in old.splitlines() if line not in new.splitlines()]
    come = [f"+ {line}" for line in new.splitlines() if line not in old.splitlines()]
    if gone or come:
        sys.exit("\n".join(["docs/kernels.md differs; `make kernels` writes it", *gone, *come]))
    count = len(set(re.findall(r"^\| (`.+?`)", new, re.MULTILINE)))
    print(f"docs/kernels.md holds: {count} kernels, no spill (nvcc {nvcc})")


if __name__ == "__main__":
    main()
