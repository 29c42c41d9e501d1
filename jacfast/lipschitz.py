"""How large the gradient of a logit can be anywhere: the product of the layers' norms."""

import math

import torch
from torch import Tensor, nn

from jacfast.calling.stock import overridden, stock
from jacfast.lean.known import pair

# Layers whose derivative has a spectral norm of at most one, at every point, in eval mode.
CONTRACTIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
LARGE = 2**24  # weights of a layer whose norm is computed, at most
SPECTRUM = 2**21  # numbers in a convolution's spectrum, at most
ROUNDING = 1e-3  # by which the norms, and gradients in float32, may be off


def chain(model: object) -> list[nn.Module] | None:
    """Return the layers of a sequential network of known layers that ends in ``nn.Linear``.

    Anything else is None: a subclass, another layer, hooks, a forward or weights that are replaced.
    """
    if overridden():
        return None
    layers = chain_part(model) if type(model) is nn.Sequential else None
    return layers if layers and type(layers[-1]) is nn.Linear else None


def chain_part(layer: nn.Module) -> list[nn.Module] | None:
    """Return the known layers that `layer` consists of, or None."""
    if _hooked(layer):
        return None
    if type(layer) is nn.Sequential:
        parts = [chain_part(inner) for inner in layer]
        return None if None in parts else [one for part in parts if part for one in part]
    known = (nn.Linear, nn.Conv2d, *CONTRACTIONS, *POOLS)
    return [layer] if type(layer) in known else None


def _hooked(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    return bool(hooks or layer._backward_pre_hooks or not stock(layer))


@torch.no_grad()
def gradient_bound(layers: list[nn.Module], x: Tensor) -> Tensor:
    """Bound the input gradient of every difference of two logits, wherever the input.

    ``||d(z_j - z_k)/dx||_2 <= c ||W_j - W_k||_2`` with W the weight of the last layer and c the
    product of the spectral norms of the others.

    Args:
        layers: of `chain`.
        x: [N, ...], an input, for its shape.

    Returns:
        [K, K], symmetric; infinite where a layer is large or has an option that is not known,
        or where the last one does not give logits [N, K].

    Source: Szegedy et al. 2014, section 4.3.
    """
    bound, sample = 1.0 + ROUNDING, x[:1].clone()  # a copy: a layer may work in place
    for layer in layers[:-1]:
        bound *= _norm(layer, sample)
        sample = layer(sample)
    weight = layers[-1].weight
    assert isinstance(weight, Tensor)
    if sample.dim() != 2:
        bound = math.inf  # several rows of logits: not one for each class
    # cdist works with products: of rows nearly the same, it gives no more than their roundings
    size = torch.linalg.vector_norm(weight, dim=1).max()
    rounding = 2 * (weight.shape[1] * torch.finfo(weight.dtype).eps) ** 0.5 * size
    return torch.cdist(weight, weight).add_(rounding).mul_(bound)


def _norm(layer: nn.Module, x: Tensor) -> float:
    if isinstance(layer, nn.Linear):
        if layer.weight.numel() > LARGE:
            return math.inf  # the products for its norm would cost more than they save
        return _largest(layer.weight)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, x)
    return _pool(layer) if isinstance(layer, POOLS) else 1.0


def _pool(layer: nn.MaxPool2d | nn.AvgPool2d) -> float:
    """Return sqrt(largest row sum * largest column sum) of the derivative."""
    kernel, stride = pair(layer.kernel_size), pair(layer.stride)
    windows = math.prod(-(-k // s) for k, s in zip(kernel, stride, strict=True))  # of one entry
    if isinstance(layer, nn.MaxPool2d):
        return math.sqrt(windows) if pair(layer.dilation) == (1, 1) else math.inf
    usual = layer.count_include_pad and not layer.ceil_mode and layer.divisor_override is None
    return math.sqrt(windows / math.prod(kernel)) if usual else math.inf


def _convolution(layer: nn.Conv2d, x: Tensor) -> float:
    """Bound the norm of a convolution with zeros around the image.

    It is a part of the rows and columns of a circular convolution on an image larger by the kernel:
    a matrix for each frequency (Sedghi, Gupta & Long 2019). Where that is large, or windows do not
    overlap, it is taken as the matrix over the windows, in so many of which an entry lies.
    """
    if layer.padding_mode != "zeros":
        return math.inf
    weight = layer.weight.unflatten(0, (layer.groups, -1))  # [G, O/G, C/G, kH, kW]
    sizes = list(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True))
    reach = [d * (k - 1) + 1 for k, _, d in sizes]
    size = [n + r - 1 for n, r in zip(x.shape[2:], reach, strict=True)]
    if layer.weight[..., 0, 0].numel() * math.prod(size) > SPECTRUM or layer.kernel_size == (
        layer.stride
    ):
        windows = math.prod(-(-k // (s if d == 1 else 1)) for k, s, d in sizes)
        return math.sqrt(windows) * _largest(weight.flatten(2))
    kernel = weight.new_zeros(*weight.shape[:3], *reach)
    kernel[..., :: layer.dilation[0], :: layer.dilation[1]] = weight
    return _largest(torch.fft.rfft2(kernel, s=size).permute(0, 3, 4, 1, 2))


@torch.no_grad()
def _largest(matrices: Tensor) -> float:
    """Bound the largest singular value: ``(sum sigma^16)^(1/16)``, at most 1.6 of it for 1,000."""
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    largest = matrices.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    matrices = matrices / largest  # squares of the smallest weights would be zero
    gram = matrices @ matrices.mH
    scale = torch.linalg.matrix_norm(gram).max().clamp(min=torch.finfo(torch.float32).tiny)
    gram = gram / scale
    for _ in range(2):
        gram = gram @ gram
    return float((torch.linalg.matrix_norm(gram).max() ** 0.25 * scale).sqrt() * largest)
