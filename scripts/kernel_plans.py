"""What an entry of each kernel is, whose instructions kernel_counts.py counts."""

from typing import NamedTuple


class Plan(NamedTuple):
    """Of an entry: loads as wide as a pack in each sweep, and what memory has to move."""

    reads: tuple[int, ...]
    values: int = 0  # of the kernel's type
    bytes: int = 0  # besides
    pack: int = 0  # entries of a load, where it is neither 16 bytes nor in the kernel's name
    float32: bool = False  # sweeps differ by their float32 arithmetic, too, not by float64 alone


WHOLE = (-1,)  # a thread has one pack, or one entry: the kernel as a whole is the loop
NONE = ()  # it works in shared memory or in the caches
# No sweep that counts: a loop over partial sums, in float64 over a row that float32 does not hold,
# or over the last three classes of deepfool_step.
APART = 0

# The first that matches counts. An entry of deepfool_step is one of the D columns, with its ten
# rows (the eleventh load is from the cache); of a join, a part; of max-pooling, a window and the
# four entries that it has at least, of max_pool_scatter_entries an entry.
PLANS = {
    "activation_first": Plan(WHOLE, values=3),
    "activation_second": Plan(WHOLE, values=5),
    "attention_second_rows<double": Plan((1, 4, 4), values=8),
    "attention_second": Plan((1, 4, APART, 4), values=8, float32=True),
    "deepfool_candidate_copy": Plan((1,), values=2),
    "deepfool_candidate_decide": Plan((1,), bytes=8),
    "deepfool_candidate_measure<double": Plan((1,), values=1),
    "deepfool_candidate_measure": Plan((1, APART), values=1),
    "deepfool_candidate_whole<double": Plan((1, 1), values=2),
    "deepfool_candidate_whole": Plan((1, APART, 1), values=2),
    "deepfool_step_finish<double, 1": Plan((APART, 2), values=3),
    "deepfool_step_finish": Plan((2,), values=3),
    "deepfool_step_measure<(double|(half|bfloat16), 1)": Plan((11, APART), values=10),
    "deepfool_step_measure": Plan((11, APART, APART), values=10),
    "deepfool_step_whole<double, 1": Plan((11, APART, APART, 2), values=11),
    "deepfool_step_whole<(double|(half|bfloat16), 1)": Plan((11, APART, 2), values=11),
    "deepfool_step_whole": Plan((11, APART, APART, 2), values=11),
    "halfspace_projection": Plan(NONE, values=1),
    "max_pool_gather": Plan(WHOLE, values=2, bytes=1),
    "max_pool_scatter_entries": Plan(WHOLE, values=2),
    "max_pool": Plan(WHOLE, values=5, bytes=1),
    "norm_columns<first, float": Plan((3,), values=2, pack=1),
    "norm_columns<first, double": Plan((4,), values=2, pack=1),
    "norm_columns<second, double": Plan((5,), values=3, pack=1),
    "norm_(columns|channels)<first": Plan((2,), values=2, pack=1),
    "norm_(columns|channels)<second": Plan((3,), values=3, pack=1),
    "norm_join": Plan((1,), bytes=8),
    "norm_rows<first, double, 1>": Plan((1, 1, 1), values=3, pack=2),
    "norm_rows<second, double, 1>": Plan((1, 1, 1), values=5, pack=2),
    "norm_rows<first, float, 1>": Plan((1, 1, APART, APART, 1), values=3, pack=4, float32=True),
    "norm_rows<second, float, 1>": Plan((1, 1, APART, APART, 1), values=5, pack=4, float32=True),
    "norm_rows<first, .*, 1>": Plan((1, 1, APART, APART, 1), values=3, pack=8, float32=True),
    "norm_rows<second, .*, 1>": Plan((1, 1, APART, APART, 1), values=5, pack=8, float32=True),
    "norm_rows<first, double": Plan((2, 2, 2), values=3),
    "norm_rows<first": Plan((2, 2, APART, APART, 2), values=3, float32=True),
    "norm_rows<second, double": Plan((3, 3, 3), values=5),
    "norm_rows<second": Plan((3, 3, APART, APART, 3), values=5, float32=True),
    "orthonormal_cotangents": Plan(NONE, values=2),
    "row_norm_join<maxabs": Plan((2,), bytes=16),
    "row_norm_join": Plan((1,), bytes=8),
    "row_norm_.*<(maxabs|.*, double)": Plan((1,), values=1),
    "row_norm": Plan((1, APART), values=1),
}
