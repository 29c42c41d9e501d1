"""Gather what scripts/gpu_check.sh measured into one JSON, and say whether all of it went well.

python scripts/gpu_report.py LOGS FOLDER DRY
"""

import json
import re
import sys
from pathlib import Path

import torch

from benchmarks.harness import environment

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
NETWORKS = ("tf_cnn", "vit", "cifar_cnn", "mlp")
OPS = ("ops", "activations", "norms", "pooling")
FIGURES = (
    *OPS,
    "loops",
    *(f"{kind}-{name}" for kind in ("step", "layers") for name in NETWORKS),
)
VERIFIED = tuple(f"verify-{name}" for name in NETWORKS)
EXPECTED = ("build", "lives", "op-tests", *VERIFIED, *FIGURES, *TOOLS, "tests")
ON_THE_CPU = ("build", "op-tests", *OPS, "tests")
FILES = {"deepfool": "deepfool-mnist-foolbox"}  # where it is not the step's name
# What compute-sanitizer says where the machine does not let it attach.
REFUSED = "Device not supported"


def steps(logs: Path) -> dict[str, dict]:
    """Return status, seconds and the closing lines of every step that ran."""
    found = {}
    for file in sorted(logs.glob("*.status")):
        status, seconds = map(int, file.read_text().split())
        log = file.with_suffix(".log").read_text(errors="replace")
        closing = re.findall(
            r"^.*(?:\d passed|\d failed|\d skipped| SUMMARY:).*$", log, re.MULTILINE
        )
        found[file.stem] = {"status": status, "seconds": seconds, "closing": closing[-4:]}
        if REFUSED in log:
            found[file.stem]["refused"] = REFUSED
    return found


def failures(found: dict[str, dict], expected: tuple[str, ...]) -> list[str]:
    """Return what went wrong, in words."""
    wrong = [f"{name} did not run" for name in expected if name not in found]
    for name, step in found.items():
        closing = " ".join(step["closing"])
        tool = name.endswith("check")
        if step["status"]:
            wrong.append(f"{name}: {step.get('refused', 'status ' + str(step['status']))}")
        elif (tool or name.endswith("tests")) and not re.search(r"\b[1-9]\d* passed", closing):
            wrong.append(f"{name}: no test passed")
        elif tool and " SUMMARY: 0 " not in closing:
            wrong.append(f"{name}: no summary of 0 errors")
    return wrong


def main(logs: str, folder: str, dry: str) -> int:
    device = "cpu" if dry == "1" else "cuda"
    found = steps(Path(logs))
    wrong = failures(found, ON_THE_CPU if dry == "1" else EXPECTED)
    where = environment("foolbox", "mlxtend")
    report = {"environment": where, "steps": found, "failures": wrong}
    for name in (*FIGURES, "deepfool"):
        figures = Path(logs) / f"{FILES.get(name, name)}-{device}.json"
        if figures.exists():
            report[name] = json.loads(figures.read_text())
            broken = [key for key in report[name].get("does not run", ()) if "jacfast" in key]
            wrong += [f"{name}: {key} does not run" for key in broken]
        elif found.get(name, {}).get("status") == 0:
            wrong.append(f"{name}: no figures")
    name = where.get("gpu", "no GPU").replace(" ", "-").lower()
    path = Path(folder) / f"{name}-{where['date']}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {path} (torch {torch.__version__})")
    print("\n".join(wrong) or "everything passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
