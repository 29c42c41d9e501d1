"""What a penalty has of its own to learn."""

import dataclasses
from typing import Any

from torch import nn

from jacfast.penalties.base import Penalty


def learned_by(penalty: Penalty | None) -> nn.Module:
    """Return a module of the parameters and modules that are fields of a penalty."""
    found = nn.Module()
    for field in dataclasses.fields(penalty) if penalty is not None else ():
        value = getattr(penalty, field.name)
        if isinstance(value, nn.Parameter):
            found.register_parameter(field.name, value)
        elif isinstance(value, nn.Module):
            found.add_module(field.name, value)
    return found


def with_learned(penalty: Penalty, found: nn.Module) -> Penalty:
    """Return the penalty with what is in a module of `learned_by` now, sharded or loaded say."""
    now = found.named_parameters(recurse=False, remove_duplicate=False)
    other: dict[str, Any] = {
        name: value for name, value in now if value is not getattr(penalty, name)
    }
    return dataclasses.replace(penalty, **other) if other else penalty
