"""The networks of the papers, and how a user's own model comes in."""

from jacfast.models.fits import check_fits
from jacfast.models.loading import load_factory, load_weights
from jacfast.models.networks import (
    cifar100_cnn,
    cifar_cnn,
    deep_defense_mlp,
    fc500,
    mlp,
    seck_a,
    seck_b,
    seck_c,
    tf_tutorial_cnn,
    tf_tutorial_cnn_orthonormal,
    tf_tutorial_cnn_orthonormal_2,
    yu_cifar_cnn,
)
from jacfast.models.normalized import Normalize, Normalized, bare_model, normalized

__all__ = [
    "Normalize",
    "Normalized",
    "bare_model",
    "check_fits",
    "cifar100_cnn",
    "cifar_cnn",
    "deep_defense_mlp",
    "fc500",
    "load_factory",
    "load_weights",
    "mlp",
    "normalized",
    "seck_a",
    "seck_b",
    "seck_c",
    "tf_tutorial_cnn",
    "tf_tutorial_cnn_orthonormal",
    "tf_tutorial_cnn_orthonormal_2",
    "yu_cifar_cnn",
]


def __dir__() -> list[str]:
    return sorted(__all__)
