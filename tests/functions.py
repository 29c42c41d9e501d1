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


class CubeNoGrad(Cube):
    """The same, with its derivative computed without a graph, and no mark."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return 3 * x**2 * g


class CubeData(Cube):
    """The same, with its derivative computed of what is detached."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x.data**2 * g.data


class CubeNumpy(Cube):
    """The same, with its derivative computed outside of PyTorch."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())


class Passed(torch.autograd.Function):
    """x: linear, so that no derivative depends on it."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return g


class Multiplied(torch.autograd.Function):
    """x w; the gradient of w, which no second derivative needs, is computed without a graph."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        with torch.no_grad():
            of_w = (g * x).sum(0)
        return g * w, of_w


class Scaled(torch.autograd.Function):
    """x w, as a constant in w: the gradient for w is 0, and has no graph."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        (w,) = ctx.saved_tensors
        return g * w.detach(), torch.zeros_like(w)


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
