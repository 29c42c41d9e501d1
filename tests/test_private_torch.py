"""The private names of PyTorch that the package uses are there, and called as it believes."""

import re
import types
from pathlib import Path

import pytest
import torch
import torch._functorch.aot_autograd
import torch._inductor
import torch.nn.functional as F
from torch import nn
from torch._higher_order_ops.scan import ScanAutogradOp
from torch._higher_order_ops.while_loop import WhileLoopAutogradOp
from torch.autograd.function import once_differentiable
from torch.nn.utils import prune

from jacfast.fused_attention import is_fused
from jacfast.graph import is_batch_norm, leaf_of, nodes
from jacfast.lean.gram import RESHAPES
from jacfast.zero_norm import is_norm
from tests.private_names import NAMES, NODES


class Lost(torch.autograd.Function):
    """x, with a backward pass that leaves no graph."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g


def twice(y, x):
    """Return the gradient of y in x, with a graph."""
    return torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]


def force(norm, x):
    """Return what a model that differentiates itself returns."""
    return torch.autograd.grad(norm(x).sin().sum(), x, create_graph=True)[0]


def of_cudnn(x):
    """Return a batch-norm of cuDNN's; on "meta", which has its graph without a GPU."""
    ones = torch.ones(2, device="meta")
    return torch.cudnn_batch_norm(x, ones, ones, None, None, True, 0.1, 1e-5)[0]


def fused_by_torchscript(x):
    model = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Tanh()))
    for _ in range(3):
        y = model(x)
    return y


X = torch.randn(1, 2, 4, 4, requires_grad=True)
ATTENDED = F.scaled_dot_product_attention(X, X, X, attn_mask=torch.zeros(4, 4))
# What has such a node, and what the package says of it.
MAKERS = {
    "torch::autograd::AccumulateGrad": (X * 2, lambda node: leaf_of(node) is X),
    "torch::autograd::Error": (twice(Lost.apply(X), X), None),
    "torch::autograd::NotImplemented": (twice(ATTENDED, X), None),
    "CdistBackwardBackward0": (twice(torch.cdist(X[0, 0], X[0, 1].detach(), 2), X), None),
    "PdistBackwardBackward0": (twice(F.pdist(X[0, 0]), X), None),
    "StandardGammaGradBackward0": (twice(torch._standard_gamma(X.exp()), X), None),
    "BatchNormBackward": (nn.BatchNorm2d(2)(X), is_batch_norm),
    "NativeLayerNormBackwardBackward0": (force(nn.LayerNorm(4), X), None),
    "NativeBatchNormBackwardBackward0": (force(nn.InstanceNorm2d(2), X), is_batch_norm),
    "CudnnBatchNormBackwardBackward0": (force(of_cudnn, X.to("meta")), is_batch_norm),
    "BackwardBackward0": (force(nn.InstanceNorm2d(2), X), is_batch_norm),
    "GroupNorm": (nn.GroupNorm(1, 2)(X), None),
    "Convolution": (nn.Conv2d(2, 3, 1)(X), None),
    "AddmmBackward0": (nn.Linear(4, 3)(X), None),
    "MmBackward0": (nn.Linear(4, 3, bias=False)(X), None),
    "DifferentiableGraphBackward": (fused_by_torchscript(X), None),
    "HardsigmoidBackward0": (F.hardsigmoid(X), None),
    "LinalgVectorNormBackward0": (F.normalize(X), is_norm),
    "NormBackward1": (F.pairwise_distance(X, -X), is_norm),
    "ScaledDotProduct": (ATTENDED, is_fused),
    "Backward0": (ATTENDED, is_fused),
    "ViewBackward0": (X.view(4, 8), None),
    "UnsafeViewBackward0": (X.transpose(2, 3).reshape(2, 16), None),
    "ReshapeAliasBackward0": (torch.ops.aten._reshape_alias(X, [4, 8], [8, 1]), None),
    "UnsqueezeBackward0": (X.unsqueeze(0), None),
    "SqueezeBackward0": (X.squeeze(), None),
    "CloneBackward0": (X.clone(), None),
    "TransposeBackward0": (X.transpose(2, 3), None),
    "PermuteBackward0": (X.permute(0, 2, 3, 1), None),
    "TBackward0": (X[0, 0].t(), None),
}
TORCH = Path(torch.__file__).parent
ELSEWHERE = {  # not to be made here: where the name is read
    "ScanAutogradOpBackward": ScanAutogradOp._backward_cls.__name__,  # compiles
    "WhileLoopAutogradOpBackward": WhileLoopAutogradOp._backward_cls.__name__,
    "SyncBatchNorm": torch.nn.modules._functions.SyncBatchNorm.__name__,  # several processes
    "_DDPSinkBackward": f"{nn.parallel.distributed._DDPSink.__name__}Backward",  # a group
    "CppNode": (TORCH / "include/torch/csrc/autograd/custom_function.h").read_text(),  # a compiler
    "CudnnRnnBackwardBackward0": (  # a GPU
        TORCH / "include/torch/csrc/autograd/generated/Functions.h"
    ).read_text(),
    "CompiledFunctionBackward": (  # the node of that class; seconds to compile
        (TORCH / "_functorch/_aot_autograd/runtime_wrappers.py")
        .read_text()
        .replace("class CompiledFunction(", "class CompiledFunctionBackward(")
    ),
}


def node_in(made, name):
    return next((node for node in nodes(made) if name in node.name()), None)


@pytest.mark.parametrize("name", sorted({*NODES, *RESHAPES} - {*ELSEWHERE}))
def test_a_node_is_called_as_the_package_believes(name):
    made, predicate = MAKERS[name]
    node = node_in(made, name)
    assert node is not None, f"{[n.name() for n in nodes(made)]}: {NODES.get(name)}"
    assert predicate is None or predicate(node), NODES[name]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_node_that_cannot_be_made_here_is_called_as_the_package_believes(name):
    assert re.search(rf"\b{name}\b", ELSEWHERE[name]), NODES[name]


class Extra(nn.Module):
    """A module with a state of its own."""

    def get_extra_state(self):
        return "a state"


def objects():
    """Return by the names of the list what the private names belong to."""
    compiled = torch.compile(nn.Linear(1, 1), backend="eager"), torch.compile(len, backend="eager")
    pruned = prune.random_unstructured(nn.Linear(2, 2), "weight", 0.5)
    nodes_of = {
        "BatchNormNode": "BatchNormBackward",
        "TwiceBatchNormNode": "NativeBatchNormBackwardBackward0",
        "TwiceCudnnNode": "CudnnBatchNormBackwardBackward0",
        "TwiceLayerNormNode": "NativeLayerNormBackwardBackward0",
        "HardsigmoidNode": "HardsigmoidBackward0",
        "ProductNode": "AddmmBackward0",
        "NormNode": "LinalgVectorNormBackward0",
        "DistanceNode": "NormBackward1",
        "AttentionNode": "ScaledDotProduct",
        "ViewNode": "ViewBackward0",
    }
    return {
        "torch": torch,
        "Module": nn.Linear(1, 1),
        "StateDict": types.SimpleNamespace(**Extra().state_dict()),
        "DistributedDataParallel": nn.parallel.DistributedDataParallel,
        "CompiledModule": compiled[0],
        "CompiledFunction": compiled[1],
        "constant": torch.compiler.assume_constant_result(lambda: 1),
        "Tensor": X,
        "Parameter": pruned.bias,
        "Node": (X * 2).grad_fn,
        "OpOverload": torch.ops.aten.add.Tensor,
        "Inductor": torch._functorch.aot_autograd.make_boxed_func(len),
        "Pruning": next(iter(pruned._forward_pre_hooks.values())),
        "FunctionNode": Lost.apply(X).grad_fn,
        **{name: node_in(MAKERS[node][0], node) for name, node in nodes_of.items()},
    }


def test_every_private_name_is_there():
    roots = objects()
    for name, use in NAMES.items():
        root, *parts = name.split(".")
        if root == "CudaAttentionNode":
            continue  # no GPU to make one
        found = roots[root]
        for part in parts:
            there = any(known.startswith(part) for known in dir(found))  # one is a prefix
            assert there, f"{name} is gone: {use.gone} (jacfast.{use.where})"
            if part.endswith("saved_"):
                break
            found = getattr(found, part)
