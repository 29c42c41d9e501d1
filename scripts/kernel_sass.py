"""Machine code as nvdisasm prints it: instructions, blocks, loops, and the path that counts.

A loop is what lies between a branch back and its target; only innermost ones are of interest, and
a kernel without one is looked at whole. Through a body that branches goes one path: the one with
the fewest calls, then with the widest accesses to memory (a store of 16 bytes and not of its
entries one by one), then with the most instructions.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?\s*(\S.*?)\s*;")
_LABEL = re.compile(r"^(\S+):\s*$")
_TARGET = re.compile(r"`\((\S+?)\)")
WIDTHS = {"8": 1, "16": 2, "64": 8, "128": 16}


class Instruction(NamedTuple):
    name: str  # 'LDG.E.128', 'FFMA'
    guarded: bool  # runs only where a predicate says so
    target: str  # of a branch or a call

    @property
    def opcode(self) -> str:
        return self.name.split(".")[0]

    @property
    def helper(self) -> bool:
        """Whether it calls what the compiler has put behind the kernel, such as a division."""
        return self.opcode == "CALL" and self.target.startswith("$")

    @property
    def width(self) -> int:
        """Bytes that an access to memory has for a thread."""
        found = re.search(r"\.[US]?(8|16|64|128)\b", self.name)
        return WIDTHS[found.group(1)] if found else 4


class Block(NamedTuple):
    code: list[Instruction]
    follow: list[int]  # the blocks that may come next


def instructions(listing: str) -> Iterator[str | Instruction]:
    """Yield labels as strings, and instructions, in their order."""
    for line in listing.splitlines():
        label, found = _LABEL.match(line), _LINE.search(line)
        if label:
            yield label.group(1)
        elif found:
            words = found.group(3).split()
            guarded = bool(found.group(2)) or bool(re.match(r"!?U?P\d", " ".join(words[1:2])))
            target = _TARGET.search(found.group(3))
            branch = words[0].startswith(("BRA", "CALL"))
            yield Instruction(words[0], guarded, target.group(1) if branch and target else "")


def blocks(listing: str) -> tuple[list[Block], dict[str, int]]:
    """Return the blocks of one kernel, and how many instructions its helpers have."""
    code: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    helpers: dict[str, int] = {}
    helper = ""
    for item in instructions(listing):
        if isinstance(item, str):
            if item.startswith("$"):  # what the compiler calls, behind the kernel
                helper = item
            labels[item] = len(code)
            code.append([])
            continue
        if helper:
            helpers[helper] = helpers.get(helper, 0) + 1
            continue
        code[-1].append(item)
        if item.opcode in ("BRA", "EXIT", "RET"):
            code.append([])
    joined = []
    for number, block in enumerate(code):
        last = block[-1] if block else Instruction("NOP", False, "")
        follow = [labels[last.target]] if last.opcode == "BRA" and last.name != "BRA.DIV" else []
        ends = last.opcode in ("BRA", "EXIT", "RET") and not last.guarded
        if (not ends or last.name == "BRA.DIV") and number + 1 < len(code):
            follow.append(number + 1)
        joined.append(Block(block, follow))
    return joined, helpers


def loops(all_blocks: list[Block]) -> list[tuple[int, int]]:
    """Return first and last block of each innermost loop; of a kernel without one, of the whole."""
    found = [
        (target, number)
        for number, block in enumerate(all_blocks)
        for target in block.follow
        if target < number or (target == number and len(block.code) > 1)  # not the trap at the end
    ]
    inner = [
        (begin, end)
        for begin, end in found
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in found)
    ]
    return inner or [(0, len(all_blocks) - 1)]


def path(all_blocks: list[Block], begin: int, end: int) -> list[Instruction]:
    """Return the instructions of the path that counts from block `begin` to block `end`."""
    best: dict[int, tuple[tuple[int, int, int], list[int]]] = {begin: ((0, 0, 0), [])}
    finished = None
    for number in range(begin, end + 1):
        if number not in best:
            continue
        code = all_blocks[number].code
        calls = sum(i.helper for i in code)
        wide = sum(i.width**2 for i in code if i.opcode in ("LDG", "STG"))
        before, blocks_before = best[number]
        weight = (before[0] - calls, before[1] + wide, before[2] + len(code))
        way = (weight, [*blocks_before, number])
        ahead = [n for n in all_blocks[number].follow if number < n <= end]
        for follow in ahead:
            best[follow] = max(best.get(follow, way), way)
        if number == end or not ahead:
            finished = max(finished or way, way)
    assert finished is not None
    return [i for number in finished[1] for i in all_blocks[number].code]
