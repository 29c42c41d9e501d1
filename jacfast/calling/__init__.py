"""How a user's model is called: the one room for what must hold around every call of it.

``modes``: train and eval flags, requires_grad, and that they end as they began; ``contexts``: what
must hold around forward and backward pass; ``inputs``, ``arguments`` and ``outputs``: with what it
is called, and what may come out; ``warning``: at whose line a warning is shown.
"""

from jacfast.calling.arguments import Arguments
from jacfast.calling.contexts import eager
from jacfast.calling.inputs import check_input, check_labels
from jacfast.calling.modes import in_eval_mode, quiet
from jacfast.calling.outputs import (
    Model,
    as_logits,
    as_rows,
    check_classes,
    logits_of,
    outputs_of,
    pick,
)
from jacfast.calling.warning import warn

__all__ = [
    "Arguments",
    "Model",
    "as_logits",
    "as_rows",
    "check_classes",
    "check_input",
    "check_labels",
    "eager",
    "in_eval_mode",
    "logits_of",
    "outputs_of",
    "pick",
    "quiet",
    "warn",
]
