"""How much faster are two processes than one? One thread each, DeepFool and the penalised step.

python -m benchmarks.sharing

DeepFool over 2,000 digits, shared through `deepfool_to_disk`, and 20 penalised steps of 200 digits,
shared by `fit`; the time from when all processes are ready until the last one is through, without
the start of Python. The files must be the same, and the weights but for roundings.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

import jacfast
from benchmarks.harness import environment, print_table, write
from jacfast import data, models
from jacfast.team import Team
from jacfast.training import Defence, fit

IMAGES, BATCH, STEPS, ROUNDS = 2000, 50, 20, 5
FAR = 1e-4  # of the largest weight, after 20 steps in float32


def work(folder: Path) -> None:
    """Do both jobs as one process of several; the first one writes how long they took."""
    split = data.load_digits()
    x, y = split.train_x[:IMAGES], split.train_y[:IMAGES]
    model = models.tf_tutorial_cnn().eval()
    model.load_state_dict(torch.load(folder.parent / "weights.pt"))
    seconds = {}
    Team.here().agree({})
    start = time.perf_counter()
    jacfast.deepfool_to_disk(folder / "deepfool", model, list(x.split(BATCH)))
    seconds["DeepFool, 2,000 digits"] = time.perf_counter() - start
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = Defence(jacfast.Frobenius(), 0.03)
    start = time.perf_counter()
    size = IMAGES // (STEPS // 2)
    fit(model, x, y, epochs=2, batch_size=size, loss=loss, optimizer=optimizer)
    seconds["20 penalised steps of 200"] = time.perf_counter() - start
    if os.environ["RANK"] == "0":
        torch.save(model.state_dict(), folder / "weights.pt")
        (folder / "seconds.json").write_text(json.dumps(seconds))


def run(processes: int, folder: Path) -> dict[str, float]:
    """Let so many processes do it; return their seconds."""
    folder.mkdir()
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", *torchrun, "-m", "benchmarks.sharing", str(folder)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environ, check=True, capture_output=True)
    return json.loads((folder / "seconds.json").read_text())


def verify(one: Path, two: Path) -> None:
    """Refuse results that are not the same."""
    files = sorted((one / "deepfool").glob("*.safetensors"))
    assert len(files) == IMAGES // BATCH
    for file in files:
        assert file.read_bytes() == (two / "deepfool" / file.name).read_bytes(), file.name
    a, b = (torch.load(folder / "weights.pt") for folder in (one, two))
    far = [float((a[name] - b[name]).abs().max() / a[name].abs().max()) for name in a]
    assert all(each < FAR for each in far), far


def main() -> None:
    """Take turns, one process and two; print and write medians."""
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        split = data.load_digits()
        torch.manual_seed(0)
        model = models.tf_tutorial_cnn()
        fit(model, split.train_x, split.train_y, epochs=3, batch_size=100, lr=1e-3, loss=Defence())
        torch.save(model.state_dict(), Path(folder) / "weights.pt")
        for number in range(ROUNDS):
            for processes, times in found.items():
                times.append(run(processes, Path(folder) / f"{number}-{processes}"))
            verify(Path(folder) / f"{number}-1", Path(folder) / f"{number}-2")
    rows = [("", "1 process, s", "2 processes, s", "ratio")]
    jobs = {}
    for job in found[1][0]:
        one, two = (median(times[job] for times in found[n]) for n in (1, 2))
        jobs[job] = {"one_s": one, "two_s": two, "ratio": one / two}
        rows.append((job, f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}"))
    print_table("Two processes of one thread each, against one", rows)
    write("sharing", {"environment": environment(), "jobs": jobs, "rounds": found})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]))
    else:
        main()
