"""The machine and the versions that figures depend on."""

import datetime
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def environment(*packages: str) -> dict[str, str]:
    """Return the machine, and the versions of torch and of `packages`."""
    found = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found |= _driver()
    found["torch"] = torch.__version__
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((li.split(": ")[1] for li in lines if li.startswith("model name")), "unknown")


def _driver() -> dict[str, str]:
    """Return the driver's version and the clocks, in MHz."""
    fields = {
        "driver": "driver_version",
        "clock": "clocks.sm",
        "clock_max": "clocks.max.sm",
        "clock_memory": "clocks.mem",
    }
    query = f"--query-gpu={','.join(fields.values())}"
    try:
        run = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return {"driver": f"unknown ({error})"}
    return dict(zip(fields, run.stdout.splitlines()[0].split(", "), strict=True))
