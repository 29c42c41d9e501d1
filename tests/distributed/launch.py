"""Start processes of torchrun."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(
    module: str, processes: int, *arguments: object, restarts: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    """Run a module by so many processes, of one thread each; return what came of it."""
    how = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *how, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
