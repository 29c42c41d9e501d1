"""The ops are registered as soon as jacfast and torch are both imported, in either order.

``import jacfast`` alone leaves torch alone; but who imports both may call
``torch.ops.jacfast.row_norm``, or load an exported program that does, without naming anything else.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Torch(MetaPathFinder):
    """Finds torch, once, as the others find it, and imports the ops when it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def and_the_ops(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = and_the_ops  # type: ignore[method-assign]
        return spec


def _register() -> None:
    importlib.import_module("jacfast.ops")


if "torch" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _Torch())
