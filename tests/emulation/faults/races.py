"""Races of the CUDA kernels, which the race detector must find; most give the right result."""

from tests.emulation.faults import Fault

RACES = [
    Fault(
        "race: zeros are written to what another thread may still read",
        "csrc/kernels/attention_second.cuh",
        "    team_sync();  // until others have read what this thread writes\n",
        "",
        "attention_second",
    ),
    Fault(
        "race: warps update one slot without an atomic",
        "csrc/kernels/device.cuh",
        """  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  value = slots[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) value = join(value, slots[warp]);
""",
        """  if (threadIdx.x == 0) slots[0] = value;
  __syncthreads();
  if (threadIdx.x > 0 && threadIdx.x % 32 == 0) slots[0] = join(slots[0], value);
  __syncthreads();
  value = slots[0];
""",
        "row_norm",
    ),
    Fault(
        "race: a barrier of each half of a warp",
        "csrc/kernels/device.cuh",
        "one_warp() ? __syncwarp()",
        "one_warp() ? __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u)",
        "deepfool_step",
    ),
    Fault(
        "race: a shuffle in place of a warp's barrier",
        "csrc/kernels/device.cuh",
        "one_warp() ? __syncwarp()",
        "one_warp() ? void(__shfl_sync(0xffffffffu, 0, 0))",
        "deepfool_candidate",
    ),
    Fault(
        "race: all threads write a row's measure",
        "csrc/kernels/row_norm.cuh",
        "  if (threadIdx.x > 0) return;\n  static_cast",
        "  static_cast",
        "row_norm",
    ),
    Fault(
        "race: the block of every part writes the row's measure, too",
        "csrc/kernels/row_norm.cuh",
        "  op.partial[item()] = peak.value;\n",
        "  op.partial[item()] = peak.value;\n  write<KIND, Acc<T>>(op, row, peak);\n",
        "row_norm",
    ),
    Fault(
        "race: the block of every part writes winner and distance",
        "csrc/kernels/deepfool_step.cuh",
        "p == 0 && threadIdx.x == 0",
        "threadIdx.x == 0",
        "deepfool_step",
    ),
    Fault(
        "race: all threads of a team write winner and distance",
        "csrc/kernels/deepfool_step.cuh",
        "p == 0 && threadIdx.x == 0",
        "p == 0",
        "deepfool_step",
    ),
    Fault(
        "race: every part copies the whole candidate",
        "csrc/kernels/deepfool_candidate.cuh",
        "const Span part = part_of(op.size, op.parts, p);\n  const T* w",
        "const Span part{0, op.size};\n  const T* w",
        "deepfool_candidate",
    ),
    Fault(
        "race: two threads write each window",
        "csrc/kernels/max_pool.cuh",
        "const int i = thread_number(pool);\n  if (i < 0) return;\n  const T* first",
        "const int i = thread_number(pool) / 2 * 2;\n  if (i < 0) return;\n  const T* first",
        "max_pool",
    ),
    Fault(
        "race: all threads keep a row's statistics",
        "csrc/kernels/norm_rows.cuh",
        "op.stats != nullptr && threadIdx.x == 0",
        "op.stats != nullptr",
        "norm",
    ),
    Fault(
        "race: all threads keep a channel's sums",
        "csrc/kernels/norm_parameters.cuh",
        "if (threadIdx.x == 0) keep<SECOND>(op, part, c, total);",
        "keep<SECOND>(op, part, c, total);",
        "norm",
    ),
    Fault(
        "race: all threads decide",
        "csrc/kernels/halfspace_projection.cuh",
        "if (threadIdx.x == 0) f();",
        "f();",
        "halfspace_projection",
    ),
    Fault(
        "race: the first thread decides while others read",
        "csrc/kernels/halfspace_projection.cuh",
        "team_sync();  // the others",
        "// the others",
        "halfspace_projection",
    ),
]
