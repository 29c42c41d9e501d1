"""Models of the zoos by name, with random weights and without a network; and their inputs."""

import importlib
from typing import Any

from torch import nn

ZOOS = ("torchvision", "timm", "transformers")


def is_of_zoo(spec: str) -> bool:
    """Say whether a spec such as ``timm:vit_tiny_patch16_224`` names a model of a zoo."""
    return spec.partition(":")[0] in ZOOS and ":" in spec


def of_zoo(spec: str, classes: int | None = None) -> nn.Module:
    """Return a model of torchvision, timm or transformers (by the name of its class).

    Args:
        classes: number of outputs; default: the architecture's own.

    Raises:
        ImportError: the package is not installed. ValueError: it has no such model, or cannot make
            it.
    """
    package, _, name = spec.partition(":")
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"model {spec!r} needs the package {package}, which cannot be imported: {error}"
        ) from error
    try:
        return {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[package](
            name, classes
        )
    except Exception as error:  # whatever a zoo does with a name
        words = " ".join(str(error).split())[:300]
        raise ValueError(
            f"model {spec!r} cannot be made; {package} raised {type(error).__name__}: {words}"
        ) from error


def _torchvision(name: str, classes: int | None) -> nn.Module:
    from torchvision.models import get_model

    options = {} if classes is None else {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):  # else a warning, and outputs on the side
        options |= {"init_weights": True, "aux_logits": False}
    return get_model(name, weights=None, **options)


def _timm(name: str, classes: int | None) -> nn.Module:
    import timm

    options = {} if classes is None else {"num_classes": classes}
    return timm.create_model(name, pretrained=False, **options)


def _transformers(name: str, classes: int | None) -> nn.Module:
    import transformers

    kind = getattr(transformers, name, None)
    if kind is None or getattr(kind, "config_class", None) is None:
        raise ValueError(
            f"there is no model {name} with a configuration, such as ViTForImageClassification"
        )
    options = {} if classes is None else {"num_labels": classes}
    return kind(kind.config_class(**options))


def input_shape(spec: str, model: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of a sample [C, H, W] that a model by this spec is made for, if known."""
    zoo, _, name = spec.rpartition(":")
    if zoo in ("", "jacfast.models"):
        return (3, 32, 32) if "cifar" in name else (1, 28, 28)
    if zoo == "torchvision":
        return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    of_timm = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(of_timm, dict) and "input_size" in of_timm:
        return tuple(of_timm["input_size"])
    return _of_config(getattr(model, "config", None))


def _of_config(config: Any) -> tuple[int, ...] | None:
    """Return the shape of an image for a model of transformers."""
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return (getattr(config, "num_channels", 3), *sides)
