"""How a user's model is called: the one room for what must hold around every call of it.

``call``: a model as a function of x alone, which attacks and measures get. ``modes``: train and
eval flags, requires_grad, and that they end as they began (``held``), of the modules that
``functions`` finds in whatever the user has; ``baked``: of programs in which the mode is a
constant; ``frozen``: of models that ask for gradients of their weights all the same; ``anew``: of
weights that hooks compute; ``watch``: what ``functions`` did not find. ``contexts``: what must hold
around forward and backward pass, ``attention``: that it has a second derivative, ``listeners``: who
listens to gradients; ``taken``: functions in the place of PyTorch's, which may not take all of its
arguments; ``batch_norm``: which layers couple the samples; ``stock``: that PyTorch's functions and
layers are its own; ``parts``: when a batch may be cut, ``masks``: its dropout then; ``state``: what
a call changes (``places``: where that is, ``attributes``: in objects, ``moved``: in parameters,
``copies``: of tensors), ``draws``: what it draws, ``seeds``: from where, ``sources``: or from where
of its own; ``inputs``, ``arguments`` (``rebuilt``: containers among them) and ``outputs``: with
what it is called, and what may come out, in which ``tensors`` finds the tensors; ``finite``: what
NaN and infinity mean there; ``pieces``: that parameters are whole, and there; ``tree``: a model's
modules, quickly; ``trial``: a step before any work; ``warning``: at whose line a warning is shown.
"""

# ruff: noqa: F401 -- what is imported here is for the other rooms

from jacfast.calling.arguments import Arguments
from jacfast.calling.attention import Twice, grad_twice
from jacfast.calling.batch_norm import with_batch_statistics, without_statistics
from jacfast.calling.call import AnyModel, Call, Further, logits_of, outputs_of, takes_model
from jacfast.calling.contexts import eager, logits_alone, uncompiled, without_autocast
from jacfast.calling.draws import Draws, beside, rng_states
from jacfast.calling.finite import (
    apart,
    check_finite,
    check_weights,
    classes_of,
    largest,
    sane,
    say_bad_logits,
    say_not_finite,
)
from jacfast.calling.functions import compiled, device_of, modules_of, unwrapped
from jacfast.calling.inputs import check_input, check_labels, ordinary, say_grey_values
from jacfast.calling.masks import Masks, drops
from jacfast.calling.modes import check_made, in_a_step, in_eval_mode, quiet
from jacfast.calling.moved import stood_for
from jacfast.calling.outputs import Model, as_logits, as_rows, check_classes, check_depends, pick
from jacfast.calling.parts import (
    entries_of,
    has_few_products,
    hears_gradients,
    may_be_cut,
    part_of,
    rows_of,
    separable,
    worth_two_calls,
)
from jacfast.calling.pieces import in_pieces
from jacfast.calling.sources import readable
from jacfast.calling.state import State
from jacfast.calling.tensors import outline, rebuilt, tensors
from jacfast.calling.tree import in_order, parameters, tree, weights
from jacfast.calling.trial import tried
from jacfast.calling.warning import warn
