"""deepfool and minimal_norm in the form in which other toolboxes call an attack.

Each function imports its toolbox when it is called, and passes `options` on to the attack, under
its names or the toolbox's; they are checked when the attack is made. What the toolbox decides
(bounds, labels, devices, normalisation) stays its own.
"""

from jacfast.attacks.adapters.art import for_art
from jacfast.attacks.adapters.attackbench import for_attackbench
from jacfast.attacks.adapters.foolbox import for_foolbox
from jacfast.attacks.adapters.torchattacks import for_torchattacks

__all__ = ["for_art", "for_attackbench", "for_foolbox", "for_torchattacks"]
