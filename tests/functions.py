"""Functions of a user's own, as the tests put them into models."""

import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    """x^3, its derivative written in differentiable ops."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class CubeOnce(Cube):
    """The same, marked as not differentiable twice."""

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class CubeBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        ctx.save_for_backward(x, g)
        return 3 * x**2 * g

    @staticmethod
    def backward(ctx, h):
        x, g = ctx.saved_tensors
        return 6 * x * g * h, 3 * x**2 * h


class CubeNested(Cube):
    """The same, its backward a Function with a derivative of its own."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return CubeBackward.apply(x, g)
