"""Fixtures of every test, and the order of the tests."""

import gc
import os
import shlex
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jacfast.ops import lives
from tests.testing import EMULATED, LIVES, Life, emulated, missing

# torch.manual_seed notes its caller's stack for each of these that is not there: a millisecond.
for accelerator in (torch.cuda, torch.xpu, torch.mtia):
    if not accelerator.is_available():
        accelerator.manual_seed_all = lambda _seed: None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a second environment run every test, without all of its parameters once more."""
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        help="of each test's parameters, one in so many; a prime, so that all values are met",
    )
    parser.addoption(
        "--one-life",
        action="store_true",
        help="of the lives that -k leaves one for each of a test's other parameters, any of them",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Count the parameters of --one-in in the order of the files: pytest-randomly's goes."""
    if config.getoption("--one-in") > 1:
        config.option.randomly_reorganize = False


@pytest.hookimpl(trylast=True)  # of what -k leaves, and in the order that it is to have
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what --one-in does not ask for; begin with what takes long.

    Workers side by side take from each other what is left, and so end together.
    """
    seen: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (left_out if seen[test] % config.getoption("--one-in") else kept).append(item)
        seen[test] += 1
    if config.getoption("--one-life"):
        names = {item.nodeid for item in _one_life(kept)}
        left_out += [item for item in kept if item.nodeid not in names]
        kept = [item for item in kept if item.nodeid in names]
    config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("slow") is None)


def _one_life(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield of those that differ by the life of the op alone one: drawn, the same in each run."""
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        groups[item.nodeid.replace(f"[{given.get('life')}", "[")].append(item)
    for name, group in groups.items():
        yield group[zlib.crc32(name.encode()) % len(group)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Let garbage collections pass by all that is there by then, a fifth of the tests' time.

    None while it comes: they find little, and take the longer the more there is.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


# What is drawn is the same whatever ran before; and other numbers in a file, in what its tests
# share and in a test, which would otherwise find its own in what it is given.
def pytest_collectstart() -> None:
    """Seed what a file draws when it is imported."""
    torch.manual_seed(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed what a test draws, and its own fixtures."""
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> Iterator[object]:
    """Seed what tests share, whichever of them comes first, and leave that one its numbers."""
    if fixturedef.scope == "function":
        return (yield)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return (yield)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Name the seed of the order in which a test failed, and the line that repeats it."""
    if exitstatus != pytest.ExitCode.TESTS_FAILED:
        return
    if getattr(config.option, "randomly_reorganize", False):  # pytest-randomly's
        seed = f"--randomly-seed={config.option.randomly_seed}"
        words = shlex.join([sys.executable, "-m", "pytest", seed, *config.invocation_params.args])
        threads = os.environ.get("OMP_NUM_THREADS")
        terminalreporter.section("in this order")
        terminalreporter.write_line(f"OMP_NUM_THREADS={threads} {words}" if threads else words)


@pytest.fixture(params=LIVES)
def life(request, monkeypatch) -> Iterator[Life]:
    """Every life of an op in turn: the PyTorch reference, the compiled CPU code, the CUDA kernels.

    The CUDA kernels run in the emulator, in several block sizes and orders, and on the GPU.
    """
    name = request.param
    why = missing(name)
    if why:
        pytest.skip(why)
    monkeypatch.setattr(lives, "IMPL", "reference" if name == "reference" else "auto")
    if name in EMULATED:
        with emulated(*EMULATED[name]):
            yield Life(name, torch.device("cpu"))
    else:
        yield Life(name, torch.device("cuda" if name == "cuda" else "cpu"))


@pytest.fixture
def threads():
    """Set the number of threads in a test; put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def exact_convolutions() -> Iterator[None]:
    """Have cuDNN compute in float32, and alike each time; TF32, its default, has ten bits."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """The current folder, for modules of a user's, my_*, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]
