"""The networks of the papers.

The networks take images in [0, 1] and return logits; Seck's A and B need [N, 1, 28, 28] like the
TensorFlow tutorial's, the fully connected ones flatten what they get.
"""

import itertools

from torch import nn

from jacfast.checks import count

# Those that need no arguments, by which a command names them.
NAMES = (
    *("tf_tutorial_cnn", "tf_tutorial_cnn_orthonormal", "tf_tutorial_cnn_orthonormal_2"),
    *("cifar_cnn", "cifar100_cnn", "yu_cifar_cnn", "fc500", "deep_defense_mlp"),
    *("seck_a", "seck_b", "seck_c"),
)


def tf_tutorial_cnn() -> nn.Sequential:
    """Return the TensorFlow-tutorial CNN for [N, 1, 28, 28]; 3,274,634 parameters.

    Two sets of conv 5x5 (32, 64; same padding), ReLU, max-pool 2; then 3136-1024-10, dropout 0.5.

    Source: Jakubovitz & Giryes 2018, section 4 (MNIST).
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10),
    )  # fmt: skip


def tf_tutorial_cnn_orthonormal() -> nn.Sequential:
    """Return `tf_tutorial_cnn` whose last layer has fixed orthonormal rows (its bias is trained).

    So that ||J||_F <= ||J of the layer before||_F: Jakubovitz & Giryes 2018, Proposition 4.
    """
    return _fix_orthonormal(tf_tutorial_cnn(), 1)


def tf_tutorial_cnn_orthonormal_2() -> nn.Sequential:
    """Return the same with the last two layers fixed (Jakubovitz & Giryes 2018, table 8)."""
    return _fix_orthonormal(tf_tutorial_cnn(), 2)


def _fix_orthonormal(model: nn.Sequential, layers: int) -> nn.Sequential:
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in linear[-layers:]:
        nn.init.orthogonal_(layer.weight)
        layer.weight.requires_grad_(False)
    return model


def cifar_cnn(classes: int = 10) -> nn.Sequential:
    """Return a CNN for [N, 3, 32, 32]; 716,074 parameters for 10 classes, 739,204 for 100.

    Four sets of conv, conv, max-pool 2, dropout (keep 0.75), then two fully connected layers; ReLU.

    Source: Jakubovitz & Giryes 2018, section 4 (CIFAR). The paper gives neither widths nor kernels:
    3x3 with same padding, widths 32, 64, 128, 128 and 256 neurons are the choice made here.

    Raises:
        TypeError: classes is no integer. ValueError: it is < 2.
    """
    classes = count("classes", classes, 2)
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Dropout(0.25)]
        channels = width
    layers += [nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes)]
    return nn.Sequential(*layers)


def cifar100_cnn() -> nn.Sequential:
    """Return `cifar_cnn` for 100 classes (Jakubovitz & Giryes 2018, CIFAR-100)."""
    return cifar_cnn(100)


def yu_cifar_cnn() -> nn.Sequential:
    """Return five convolutions and global average pooling for [N, 3, 32, 32]; 279,050 parameters.

    Source: Yu, Liu, Wang & Chen, appendix (CIFAR-10). The paper gives neither widths, kernels nor
    strides: 3x3 with same padding, widths 32, 64, 64, 128, 128, max-pool 2 after the first and
    the third, and a last layer of ten are the choice made here.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def mlp(*widths: int) -> nn.Sequential:
    """Return a ReLU network of fully connected layers, ``mlp(784, 100, 10)``; inputs flattened.

    Raises:
        TypeError: a width is no integer. ValueError: fewer than two widths, or one below 1.
    """
    if len(widths) < 2:
        raise ValueError(f"widths must be two sizes or more; got {widths}")
    widths = tuple(count("widths", width) for width in widths)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fc500() -> nn.Sequential:
    """Return 784-500-150-10; 469,160 parameters.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, table 1 (FC500-150-10).
    """
    return mlp(784, 500, 150, 10)


def deep_defense_mlp() -> nn.Sequential:
    """Return 784-100-10; 79,510 parameters.

    Weights from a normal of sd 0.01, cut at 2 sd as TensorFlow cuts it; biases 0 (the paper is
    silent on both).

    Source: Deng, Zhang & Zhao, Deep Defense re-implemented.
    """
    model = mlp(784, 100, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)
    return model


def seck_a() -> nn.Sequential:
    """Return model A for [N, 1, 28, 28]; 710,218 parameters.

    Convs of 64, 128, 128 filters, kernels 8, 6, 5, strides 2, 2, 1; then 128-10. The paper gives no
    padding: same, valid, valid is what its parameter count admits.

    Source: Seck, Loosli & Canu, L1-norm double backpropagation adversarial defense.
    """
    return nn.Sequential(
        nn.Conv2d(1, 64, 8, stride=2, padding=3), nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(),
        nn.Conv2d(128, 128, 5), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def seck_b() -> nn.Sequential:
    """Return model B for [N, 1, 28, 28]; 1,460,938 parameters.

    Convs of 128, 64 filters, kernel 3, strides 1, 2; then 10816-128-10. The paper gives no padding:
    of the two choices that its parameter count admits, this is same, valid.

    Source: Seck, Loosli & Canu, L1-norm double backpropagation adversarial defense.
    """
    return nn.Sequential(
        nn.Conv2d(1, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 64, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 13 * 13, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def seck_c() -> nn.Sequential:
    """Return model C, 784-512-256-128-10; 567,434 parameters.

    Source: Seck, Loosli & Canu, L1-norm double backpropagation adversarial defense.
    """
    return mlp(784, 512, 256, 128, 10)
