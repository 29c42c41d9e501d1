"""Instructions are counted in machine code written by hand, and the gate on them says no."""

import re

import pytest

from tests.scripts.loading import script

bounds, counts, rates = script("kernel_bounds"), script("kernel_counts"), script("kernel_rates")
sass, resources = script("kernel_sass"), script("kernel_resources")

HELPER = "$__internal_0_$__cuda_sm20_div_s64"


def listing(*lines: str) -> str:
    """Return lines as nvdisasm prints them; what ends in a colon is a label."""
    place, text = 0, []
    for line in lines:
        if line.endswith(":"):
            text.append(line)
            continue
        guard, code = line.split(" ", 1) if line.startswith("@") else ("", line)
        text.append(f"        /*{place:04x}*/             {guard:>6} {code} ;")
        place += 16
    return "\n".join(text)


def loop(*body: str, name: str = ".L_x_1") -> list[str]:
    return [f"{name}:", *body, f"@!P0 BRA `({name})"]


def kernel(*body: str, helper: int = 0) -> str:
    """Return a kernel with something before and behind the body, and a helper after it."""
    end = ["EXIT", ".L_x_99:", "BRA `(.L_x_99)", "NOP"]
    of_helper = [f"{HELPER}:", *["IADD3 R1, R1, R1, RZ"] * helper] if helper else []
    return listing(".text.kernel:", "S2R R2, SR_TID.X", "@P0 EXIT", *body, *end, *of_helper)


SQUARES = ["LDG.E.128 R4, [R2.64]"]
SQUARES += ["F2F.F64.F32 R8, R4", "DFMA R10, R8, R8, R10"] * 4
ROW, SUMS = "row_norm_whole<maxabs, float>", "row_norm_whole<sumsq, float>"


def test_an_entry_of_a_pack():
    found = counts.counted(ROW, kernel(*loop(*SQUARES, "IADD3 R2, R2, 0x10, RZ")))
    assert found.all == 11 / 4
    assert found.units == {"memory": 0.25, "convert64": 1, "fp64": 1, "int": 0.25, "control": 0.25}
    assert (found.bytes, found.wide, found.divisions) == (4, 4, 0)
    assert found.trips == ["4: 1 LDG 16"]


def test_the_longest_version_of_a_loop_counts_and_no_narrow_one():
    head = loop("LDG.E R4, [R2.64]", "F2F.F64.F32 R8, R4", "DFMA R1, R8, R8, R1", name=".L_x_0")
    unrolled = loop(*SQUARES * 4, name=".L_x_2")
    found = counts.counted(ROW, kernel(*head, *unrolled, *loop(*SQUARES)))
    assert found.trips == ["16: 4 LDG 16"]
    assert found.units["fp64"] == 1
    assert found.all == (4 * 9 + 1) / 16


def test_sweeps_add_up():
    read = ["LDG.E.64 R4, [R2.64]"] * 4
    largest = loop("LDG.E.64 R4, [R2.64]", "FMNMX R1, R4, R1, !PT", name=".L_x_0")
    sums = loop(*read, *["DADD R8, R8, R4"] * 4)
    write = loop(*read, *["STG.E.64 [R2.64], R4"] * 4, name=".L_x_2")
    found = counts.counted("attention_second_rows<double, 1>", kernel(*largest, *sums, *write))
    assert [trip.split(":")[0] for trip in found.trips] == ["1", "1", "1"]
    assert found.all == 3 + 9 + 9
    assert found.bytes == 64
    with pytest.raises(SystemExit, match="2 kinds of loops; PLANS says 3"):
        counts.counted("attention_second_rows<double, 1>", kernel(*largest, *sums))


def test_of_a_branch_the_wide_stores_count_and_no_helper_where_there_is_a_way_around():
    apart = ["@P1 BRA `(.L_x_3)", "STG.E.128 [R2.64], R4", "BRA `(.L_x_4)", ".L_x_3:"]
    apart += ["STG.E [R2.64], R4"] * 4 + [".L_x_4:"]
    copy = kernel(*loop("LDG.E.128 R4, [R2.64]", *apart))
    found = counts.counted("deepfool_candidate_copy<float>", copy)
    assert found.trips == ["4: 1 LDG 16, 1 STG 16"]

    around = ["@P2 BRA `(.L_x_5)", f"CALL.REL.NOINC `({HELPER})", ".L_x_5:"]
    found = counts.counted(ROW, kernel(*loop(*SQUARES, *around), helper=70))
    assert found.divisions == 1
    assert found.all == 11 / 4
    found = counts.counted(ROW, kernel(*loop(*SQUARES, around[1]), helper=70))
    assert found.divisions == 1
    assert found.units["int"] == 70 / 4


def test_a_kernel_without_a_loop_is_counted_whole():
    pack = ["LDG.E.128 R4, [R2.64]", "LDG.E.128 R8, [R2.64]", *["FMUL R4, R4, R8"] * 4]
    found = counts.counted("activation_first_packs<float>", kernel(*pack, "STG.E.128 [R2.64], R4"))
    assert found.units["fp32"] == 1
    assert found.all == (2 + 7 + 1) / 4
    assert found.bytes == 12


def test_what_a_row_takes_once_more_is_apart():
    """Sums in packs, then the same in float64, where the row has what float32 does not hold."""
    packs = loop("LDG.E.128 R4, [R2.64]", *["FFMA R8, R4, R4, R8"] * 4, "DADD R10, R10, R8")
    found = counts.counted(SUMS, kernel(*packs, *loop(*SQUARES, name=".L_x_7")))
    assert +found.units == {"memory": 0.25, "fp32": 1, "fp64": 0.25, "control": 0.25}
    with pytest.raises(SystemExit, match="1 loads in a loop whose entries have 2 each"):
        counts.counted("deepfool_step_finish<float, 4>", kernel(*packs))


def test_a_kernel_without_a_plan_is_an_error():
    with pytest.raises(SystemExit, match="new_kernel<float>: PLANS"):
        counts.counted("new_kernel<float>", kernel(*loop(*SQUARES)))


@pytest.mark.parametrize(
    ("arch", "want"),
    [
        ("sm_80", (1 / 32 + 1 / 16) / (4 * 108 * 1.41 / 2039)),
        ("sm_86", (1 / 2 + 1 / 2) / (4 * 82 * 1.695 / 936)),
        ("sm_90", (1 / 64 + 1 / 16) / (4 * 132 * 1.98 / 3350)),
        ("sm_120", (1 / 2 + 1 / 2) / (4 * 170 * 2.407 / 1792)),
    ],
)
def test_what_bounds_a_sum_of_squares_in_float64(arch, want):
    found = rates.bound(rates.CARDS[arch], counts.counted(ROW, kernel(*loop(*SQUARES))))
    assert found == ("float64", pytest.approx(want))


PAIRS = ["LDG.E.128 R4, [R2.64]", *["FFMA R8, R4, R4, R8"] * 4, "DADD R10, R10, R8"]


def bounds_by(body: list[str]) -> dict:
    found = counts.counted(ROW, kernel(*loop(*body)))
    return {ROW: bounds.bounds_of(dict.fromkeys(rates.CARDS, found))}


def test_more_float64_than_memory_has_time_for_turns_the_check_red():
    bounds.check(bounds_by(PAIRS), {})
    slow = bounds_by([*PAIRS, *["DADD R10, R10, R8"] * 5])
    with pytest.raises(SystemExit, match=rf"not bound by memory: \['{ROW}'\]"):
        bounds.check(slow, {})
    bounds.check(slow, {"row_norm": "why"})


def test_a_reason_that_nothing_needs_turns_the_check_red():
    with pytest.raises(SystemExit, match=r"no such kernel: \['row_norm'\]"):
        bounds.check(bounds_by(PAIRS), {"row_norm": "why"})


def test_the_page_has_both_tables():
    tables = resources.TABLE.read_text().split("## Instructions")
    of_resources, of_bounds = (re.findall(r"^\| (`.+?`)", t, re.MULTILINE) for t in tables)
    assert len(of_resources) > 100
    assert of_bounds == of_resources
    assert all(f"- {why}\n" in tables[1] for why in bounds.REASONS.values())
