"""What each process of `forked` has imported. Nothing may be computed here: threads do not fork."""

import torch
import torch._dynamo  # an optimizer imports it, in its first step
import torch.distributed.run

import jacfast.commands.attack
import jacfast.commands.harden
import jacfast.robustness  # noqa: F401

torch.set_num_threads(1)
