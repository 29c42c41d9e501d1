"""What was built, and which implementation each op uses on this machine, in words."""

import platform

import torch

from jacfast.ops import lives
from jacfast.version import __version__


def report() -> str:
    """Return versions, what the extension was built with, and the life of every op per device."""
    lines = [
        f"jacfast   {__version__}",
        f"python    {platform.python_version()} on {platform.machine()}",
        f"torch     {torch.__version__}, {torch.get_num_threads()} threads",
        f"extension {_extension()}",
        f"gpu       {_gpu()}",
        "",
    ]
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    width = max(len(name) for name in lives.NAMES)
    for device in devices:
        for name in lives.NAMES:
            life, why = lives.life(device), lives.reason(device)
            lines.append(f"{name:<{width}}  on {device.type}: {life:<9} ({why})")
    return "\n".join(lines)


def _extension() -> str:
    if not lives.BUILT:
        return f"not built: {lives.WHY_NOT}"
    build = lives.BUILD
    text = f"built for {', '.join(sorted(lives.BUILT))} with torch {build['torch']}"
    text += f", compiler {build['compiler']}"
    if not build["threads"]:
        text += " without OpenMP: on the CPU the ops use one thread"
    if build["cuda"]:
        text += f", CUDA {build['cuda']} for {build['architectures']}"
    return text


def _gpu() -> str:
    if torch.version.cuda is None:
        return "none: this torch is a CPU build"
    if not torch.cuda.is_available():
        return f"none visible (torch was built for CUDA {torch.version.cuda})"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
