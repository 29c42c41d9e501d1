"""Steps timed against each other: those of rivals and ours, checked first, then in turns.

`rivals` and ``ours`` are the steps, `turns` times them, `memory` and `environment` say what else
figures depend on; ``benchmarks/`` uses these, too. `benchmark` is `jacfast.bench`: `task` (model
and batch, and how rivals call it), ``contenders`` (who is timed against whom), `verify` and
`autograd` (to hold them against), `cost` (who takes too much), `measure`, `result` with `table` and
`reasons`; `kept`, that the model is afterwards what it was; ``toolboxes`` and ``attacks``, the
DeepFool of others.
"""

from jacfast.timing.benchmark import bench
from jacfast.timing.environment import environment
from jacfast.timing.result import Result, Row

__all__ = ["Result", "Row", "bench", "environment"]
