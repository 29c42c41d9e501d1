"""The race detector: every race is found in every order, what is ordered is silent."""

import json
import re

import pytest

from tests.emulation import build
from tests.emulation.build import RACES
from tests.emulation.process import op_tests, python, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SOURCE = build.HERE / "racing.cu"
GLOBAL, SHARED = "global", "shared"
# Of each race the memory, and what the two accesses do, one after the other or the other way round.
RACING = {
    "shared slot": (SHARED, "slot += 1;", "slot += 1;"),
    "atomic and read": (GLOBAL, "atomicAdd(&out[0], 1.0);", "= out[0];"),
    "result of blocks": (GLOBAL, "blockIdx.x : 0] = 7;", "blockIdx.x : 0] = 7;"),
    "result of threads": (GLOBAL, "out[0] = 7;", "out[0] = 7;"),
    "shuffle for barrier": (SHARED, "slots[threadIdx.x] = threadIdx.x;", "slots[threadIdx.x ^ 1];"),
    "partial mask": (SHARED, "slots[threadIdx.x] = threadIdx.x;", "? 8 : 16)];"),
    "masks in turn": (SHARED, "slot = 1;", "out[0] = slot;"),
    "barrier of a warp": (SHARED, "slots[threadIdx.x] = threadIdx.x;", "slots[threadIdx.x ^ 32];"),
    "overwritten": (SHARED, "next = slots[threadIdx.x + 1];", "slots[threadIdx.x] = next;"),
    "dynamic slots": (
        SHARED,
        "slots[threadIdx.x] = threadIdx.x;",
        "blockDim.x - 1 - threadIdx.x];",
    ),
    "bytes of a word": (GLOBAL, "threadIdx.x / 2] = 1;", "threadIdx.x / 2] = 1;"),
    "part of a pack": (GLOBAL, "packs[0] = packs[2];", "? 16 : 15];"),
    "whole structures": (SHARED, "slots[threadIdx.x] = sums;", "slots[threadIdx.x ^ 1];"),
    "last block, no fence before": (GLOBAL, "blockDim.x + threadIdx.x] = 1;", "sum += out[i];"),
    "last block, no fence after": (GLOBAL, "blockDim.x + threadIdx.x] = 1;", "sum += out[i];"),
    "counter of blocks": (GLOBAL, "out[number] = 1;", "= out[number - 1];"),
    "launches": (GLOBAL, "out[blockIdx.x] = blockIdx.x;", "+ 1) % gridDim.x];"),
}
RIGHT = [name for name in RACING if "no fence" not in name] + ["last block"]
OTHERS = ["block sum", "first warp only", "indices", "warp operations", "atomics", "dynamic memory"]
ACCESS = re.compile(
    r"\n  (?:a read|a write|an atomic) by block (\d+), thread (\d+), racing.cu:(\d+)"
)


@pytest.fixture(scope="module")
def messages():
    """What each kernel raises under five seeds."""
    names = [f"{name}: right" for name in RIGHT] + [f"{name}: wrong" for name in RACING]
    names += [*OTHERS, "missing barrier", "race", "as much as is watched", "more than is watched"]
    library = str(build.kernels(kind=RACES))
    done = python(RACES, "-m", "tests.emulation.planted", library, *names)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def line(number: str) -> str:
    return SOURCE.read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize("name", RACING)
def test_a_race_is_found_in_every_order_and_both_lines_are_named(messages, name):
    memory, *codes = RACING[name]
    for message in messages[f"{name}: wrong"]:
        assert f"a race in {memory} memory, which nothing orders:\n" in message
        (a, b) = ACCESS.findall(message)
        assert a[:2] != b[:2], "these are block and thread"
        lines = line(a[2]), line(b[2])
        assert any(all(map(str.__contains__, lines, two)) for two in (codes, codes[::-1])), message


@pytest.mark.parametrize("name", [*(f"{name}: right" for name in RIGHT), *OTHERS])
def test_what_is_ordered_is_silent(messages, name):
    assert messages[name] == [""] * 5


@pytest.mark.parametrize("name", ["missing barrier", "race"])
def test_what_depends_on_the_order_is_found_without_comparing_orders(messages, name):
    assert all("a race in shared memory" in message for message in messages[name])


def test_memory_is_bounded_and_what_is_not_watched_is_said(messages):
    assert messages["as much as is watched"] == [""] * 5
    assert all("more than the 32 MiB" in message for message in messages["more than is watched"])


def test_every_kernel_of_the_file_is_judged():
    source = SOURCE.read_text()
    names = set(re.findall(r'add\(all, "(.*?)"', source))
    names |= set(re.findall(r'all\["(.*?): (?:right|wrong)"\]', source))
    assert names == {*RACING, "last block"}


# Teams of one warp, all that the blocks of 32 have, are in the others as well.
@pytest.mark.slow
def test_every_emulated_test_is_without_a_race():
    op_tests(RACES, "emula and not emulated-32-shuffled", "tests/ops")
