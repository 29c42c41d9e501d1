"""How a user's model is called: the one room for what must hold around every call of it.

``modes``: train and eval flags, requires_grad, and that they end as they began; ``contexts``: what
must hold around forward and backward pass; ``inputs`` and ``outputs``: with which arguments it is
called, and what may come out; ``warning``: at whose line a warning is shown.
"""

from jacfast.calling.contexts import eager
from jacfast.calling.inputs import check_input, check_labels
from jacfast.calling.modes import in_eval_mode, quiet
from jacfast.calling.outputs import Model, check_classes, check_logits, logits_of
from jacfast.calling.warning import warn

__all__ = [
    "Model",
    "check_classes",
    "check_input",
    "check_labels",
    "check_logits",
    "eager",
    "in_eval_mode",
    "logits_of",
    "quiet",
    "warn",
]
