"""The one-line way through each of PyTorch's attention kernels, against float64."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import jacfast
from jacfast.fused_attention import is_fused
from jacfast.graph import nodes
from tests.nets import relative_error
from tests.test_fused_attention import by_hand
from tests.testing import missing

HEADS, SIZE = 2, 16  # multiples of 8, as cuDNN's wants them
# The device, a word of the kernel's name, and a dtype that it knows.
KERNELS = {
    SDPBackend.MATH: ("cuda", "", torch.float32),
    SDPBackend.EFFICIENT_ATTENTION: ("cuda", "efficient", torch.float32),
    SDPBackend.FLASH_ATTENTION: ("cuda", "flash", torch.bfloat16),
    SDPBackend.CUDNN_ATTENTION: ("cuda", "cudnn", torch.bfloat16),
}
CASES = [(backend, *kernel) for backend, kernel in KERNELS.items()]
CASES.append((SDPBackend.FLASH_ATTENTION, "cpu", "flash", torch.float32))


def logits_of(x, weights, attend):
    q, k, v = ((x @ w).unflatten(2, (HEADS, SIZE)).transpose(1, 2) for w in weights[:3])
    return attend(q, k, v).transpose(1, 2).flatten(1).tanh() @ weights[3]


def gradient(x, weights, attend, device="cpu", dtype=torch.float64):
    """Return the weights' gradient of a loss with the exact penalty, and the attention's nodes."""
    x, *weights = (t.to(device, dtype).requires_grad_() for t in (x, *weights))
    logits = logits_of(x, weights, attend)
    fused = [node.name().lower() for node in nodes(logits) if is_fused(node)]
    loss = logits.square().sum() + 10 * jacfast.frobenius_penalty(logits, x, "exact")
    found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    return found.double().cpu(), fused


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("samples", [3, 40])
@pytest.mark.parametrize(("backend", "device", "word", "dtype"), CASES, ids=str)
def test_it_is_the_gradient_of_attention_written_out(backend, device, word, dtype, samples, causal):
    if missing(device):
        pytest.skip(missing(device))
    width = HEADS * SIZE
    x = torch.randn(samples, 16, width)
    weights = [torch.randn(width, width) / width**0.5 for _ in range(3)]
    weights.append(torch.randn(16 * width, 3) / width)

    def attend(q, k, v):
        with sdpa_kernel(kernel):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    want, _ = gradient(x, weights, lambda *qkv: by_hand(*qkv, is_causal=causal))
    kernel = SDPBackend.MATH
    by_operations, fused = gradient(x, weights, attend, device, dtype)
    assert not fused
    kernel = backend
    got, fused = gradient(x, weights, attend, device, dtype)
    assert len(fused) == bool(word)
    assert all(word in name for name in fused)
    most = 2 * relative_error(by_operations, want) if dtype == torch.bfloat16 else 1e-4
    assert relative_error(got, want) < most
