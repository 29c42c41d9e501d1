"""Start processes of torchrun."""

import os
import runpy
import subprocess
import sys

from torch.distributed import run

from tests.forked import ROOT, completed, serve


def torchrun(
    module: str,
    processes: int,
    *arguments: object,
    restarts: int = 0,
    command: bool = False,
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run a module by so many processes, of one thread each; return what came of it.

    torchrun and its processes are forked, these from torchrun as it was before it had threads: what
    is forked from it later has hung. Or they are commands, as a user has them.
    """
    how = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    words = [module, *map(str, arguments)]
    if not command:
        how += ["--run-path", "--start-method=forkserver", __file__]
        return completed(_torchrun, [*how, *words], OMP_NUM_THREADS="1", **environment)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *how, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _torchrun(words: list[str]) -> None:
    serve()
    run.main(words)


if __name__ == "__main__":  # one of torchrun's processes
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:  # else torchrun waits for what this returns
            raise
