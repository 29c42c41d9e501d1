"""deepfool against closed forms, a transcription of the paper's algorithm, and foolbox."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast import DeepFoolResult, deepfool
from jacfast.attacks import loop
from tests.nets import RTOL, build, draw, parameters, relative_error, rows_of

FIELDS = ("adversarial", "r", "norm", "iterations", "success", "before", "label", "stalled")
BOTH = pytest.mark.usefixtures("either_loop")
POINTS = list(itertools.product(("plain", "overshot"), repeat=2))


def linear(classes: int, dtype: torch.dtype, size: int = 7) -> nn.Linear:
    model = nn.Linear(size, classes)
    model.weight.data, model.bias.data = draw(classes, size, seed=2), draw(classes, seed=3)
    return model.to(dtype)


def closed_form(model: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest boundary of a linear classifier and the class there."""
    w, b = model.weight.detach().double(), model.bias.detach().double()
    z = x.double() @ w.T + b
    k0 = z.argmax(dim=1, keepdim=True)
    distance = (z - z.gather(1, k0)).abs() / (w - w[k0]).norm(dim=2)
    return distance.scatter(1, k0, math.inf).min(dim=1)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("classes", range(2, 11))
def test_linear_classifier_in_closed_form(classes, dtype):
    model, x = linear(classes, dtype), draw(50, 7, dtype=dtype)
    distance, nearest = closed_form(model, x)
    result = deepfool(model, x)
    assert relative_error(result.norm, 1.02 * distance) < RTOL[dtype]
    # per sample; logits of size 10 carry a rounding of their own, which shows where two nearly tie
    atol = 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.norm.double(), 1.02 * distance, rtol=RTOL[dtype], atol=atol)
    assert torch.equal(result.label, nearest)
    assert torch.equal(result.before, model(x).argmax(dim=1))
    assert bool((result.iterations == 1).all())
    assert bool(result.success.all())
    assert not bool(result.stalled.any())


@BOTH
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_linear_classifier_at_every_scale(scale):
    """The units of x are the user's: r scales with x."""
    model = linear(4, torch.float32)
    model.bias.data.zero_()
    x = scale * draw(20, 7, dtype=torch.float32)
    distance, _ = closed_form(model, x)
    ratio = deepfool(model, x).norm.double() / distance
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.02), rtol=1e-4, atol=0)


@BOTH
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("floor", [0.0, 1e-2])
def test_overshoot_and_floor(overshoot, floor):
    """One step is (1 + overshoot) (distance + floor); with neither it ends on the boundary."""
    model, x = linear(4, torch.float64), draw(20, 7)
    distance, _ = closed_form(model, x)
    result = deepfool(model, x, overshoot=overshoot, floor=floor, steps=1)
    torch.testing.assert_close(result.norm, (1 + overshoot) * (distance + floor))


def paper(model: nn.Module, x: Tensor, linearize: str, test: str) -> tuple[Tensor, int, int, bool]:
    """Run algorithm 2 on one sample in float64; return r, iterations, label, and a flag.

    As jacfast does, a step below eps ||x|| is lengthened to 100 eps ||x||, and a sample without a
    gradient stops. The flag says that a class was decided by rounding: then a few steps more, or
    fewer, may be taken on the boundary.
    """
    scale = {"plain": 1.0, "overshot": 1.02}
    short = torch.finfo(torch.float64).eps * float(x.norm())
    params, r, rounding = parameters(model), torch.zeros_like(x), False

    def logits(point: Tensor) -> list[float]:
        return model(point[None])[0].tolist()

    k0 = max(range(5), key=logits(x).__getitem__)
    iterations = 0
    while iterations < 50:
        z = logits(x + scale[test] * r)
        ahead = max(z[k] for k in range(5) if k != k0) - z[k0]
        rounding |= abs(ahead) < 1e-11
        if ahead > 0:
            break
        point = x + scale[linearize] * r
        z, rows = logits(point), rows_of(model, params, point)
        best = (math.inf, -1)
        for k in range(5):
            if k != k0:
                norm = float((rows[k] - rows[k0]).norm())
                best = min(best, (abs(z[k] - z[k0]) / norm if norm > 0 else math.inf, k))
        distance, k = best
        if distance == math.inf:
            break
        w = (rows[k] - rows[k0]).view_as(x)
        r = r + (distance if distance > short else 100 * short) * w / w.norm()
        iterations += 1
    final = logits(x + 1.02 * r)
    return 1.02 * r, iterations, max(range(5), key=final.__getitem__), rounding


@BOTH
@pytest.mark.parametrize(("linearize", "test"), POINTS)
@pytest.mark.parametrize("name", ["mlp", "smooth_mlp", "cnn"])
def test_equals_the_paper_sample_by_sample(name, linearize, test):
    model, x = build(name, samples=24)
    model.requires_grad_(False)
    result = deepfool(model, x, linearize=linearize, test=test)
    assert int(result.success.sum()) >= 18
    assert torch.equal(result.success, ~result.stalled)
    clear = 0
    for i, sample in enumerate(x):
        r, iterations, label, rounding = paper(model, sample, linearize, test)
        slack = 0.0
        if rounding:  # such steps are tiny, or back from the overshot point to the boundary
            slack = 200 * torch.finfo(torch.float64).eps * float(sample.norm())
            slack += 0.021 * float(r.norm()) if linearize != test else 0
        assert float((result.r[i] - r).norm()) <= 1e-9 * float(r.norm()) + slack
        assert abs(int(result.iterations[i]) - iterations) <= (3 if rounding else 0)
        assert int(result.label[i]) == label
        clear += not rounding
    assert clear >= 4  # enough samples are compared to the last step


@BOTH
@pytest.mark.parametrize(("linearize", "test"), POINTS)
def test_batching_order_and_layout_do_not_matter(linearize, test):
    model, x = build("smooth_mlp", samples=20)
    options = {"linearize": linearize, "test": test, "steps": 6}
    want = deepfool(model, x, **options)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    back = order.argsort()
    wide = torch.zeros(20, 12, dtype=x.dtype)
    wide[:, ::2] = x
    permuted = deepfool(model, x[order], **options)
    runs = {
        "ones": deepfool(model, x, batch_size=1, **options),
        "threes": deepfool(model, x, batch_size=3, **options),
        "too many": deepfool(model, x, batch_size=99, **options),
        "strided": deepfool(model, wide[:, ::2], **options),
        "permuted": DeepFoolResult(**{f: getattr(permuted, f)[back] for f in (*FIELDS, "vjps")}),
    }
    for name, run in runs.items():
        for field in FIELDS if test == "overshot" else FIELDS[:3]:
            # with "plain" whether there is a last step may hang on a rounding
            got, expected = getattr(run, field), getattr(want, field)
            assert relative_error(got, expected) < 1e-9, f"{name}: {field}"


@pytest.mark.parametrize("limit", ["AT_ONCE", "BYTES"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_more_samples_than_go_through_the_model_at_once(name, limit, monkeypatch):
    """Passes of 7 samples and 7 rows, or everything at once: the same result."""
    model, x = build(name, samples=30)
    want = deepfool(model, x, steps=6)
    seen = []
    watch = model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    largest = {"mlp": 9, "cnn": 4 * x[0, 0].numel()}[name] * x.element_size()
    monkeypatch.setattr(loop, limit, {"AT_ONCE": 7, "BYTES": 8 * largest - 1}[limit])
    got = deepfool(model, x, steps=6)
    watch.remove()
    assert seen[1:6] == [7, 7, 7, 7, 2]  # after the clean logits
    for field in FIELDS:
        assert relative_error(getattr(got, field), getattr(want, field)) < 1e-9, field


@pytest.mark.parametrize("variant", ["deepfool", "super"])
def test_few_samples_at_a_time_have_a_graph(variant, monkeypatch):
    """What a graph keeps is the most of the memory; batches pass as a whole without one."""
    model, x = build("mlp", samples=30)
    want = deepfool(model, x, variant=variant)
    monkeypatch.setattr(loop, "AT_ONCE", 7)
    seen: dict[bool, list[int]] = {True: [], False: []}
    model.register_forward_pre_hook(
        lambda _, args: seen[torch.is_grad_enabled()].append(len(args[0]))
    )
    got = deepfool(model, x, variant=variant)
    assert max(seen[True]) == 7
    assert max(seen[False]) == 30
    for field in FIELDS:
        assert relative_error(getattr(got, field), getattr(want, field)) < 1e-9, field


def test_one_look_at_the_device_an_iteration():
    """A look is what waits for a GPU: an index by a mask, or a number that the host reads."""

    class Looks(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            indices = args[1] if name.startswith("index") and isinstance(args[1], list) else []
            masked = any(i is not None and i.dtype == torch.bool for i in indices)
            waits = name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")
            self.count += masked or waits
            return func(*args, **(kwargs or {}))

    model, x = build("cnn", samples=6)
    counts = []
    for steps in (3, 8):
        with Looks() as looks:
            # as far as the last step: the target is out of reach
            target = torch.zeros(6, dtype=torch.int64)
            result = deepfool(model, x, target=target, max_norm=1e-3, steps=steps)
        assert int(result.iterations.min()) == steps
        counts.append(looks.count)
    assert counts[1] - counts[0] == 5


@BOTH
def test_images_in_channels_last():
    model, x = build("cnn", samples=6)
    got = deepfool(model, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got.r, deepfool(model, x).r)


def test_progress_bar_changes_nothing(capsys, monkeypatch):
    monkeypatch.setattr("jacfast.progress.FIRST", 0)  # seconds to the first line
    model, x = build("mlp", samples=5)
    got = deepfool(model, x, batch_size=2, progress=True)
    assert torch.equal(got.r, deepfool(model, x, batch_size=2).r)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("samples", [1, 2, 60, 80])
@pytest.mark.parametrize("clip", [None, (-1.0, 1.0)])
def test_result_is_consistent(samples, clip, either_loop):
    model, x = build("smooth_mlp", samples=samples)
    x = x if clip is None else x.clamp(*clip)
    result = deepfool(model, x, clip=clip, steps=4)
    assert isinstance(result, DeepFoolResult)
    assert torch.equal(result.r, result.adversarial - x)
    assert torch.equal(result.norm, result.r.norm(dim=1))
    with torch.no_grad():
        label = model(result.adversarial).argmax(dim=1)
    assert torch.equal(result.label, label)
    assert torch.equal(result.success, label != result.before)
    assert not any(getattr(result, f).requires_grad for f in (*FIELDS, "vjps"))
    # 4 candidates per step; more for a sample that the batch carried along
    assert bool((result.vjps >= 4 * result.iterations).all())
    if either_loop == "cpu":
        assert bool((result.vjps <= 4 * (result.iterations + 1)).all())
    if either_loop == "cpu" and samples == 1:
        assert torch.equal(result.vjps, 4 * result.iterations)
    if clip is not None:
        assert float(result.adversarial.min()) >= clip[0]
        assert float(result.adversarial.max()) <= clip[1]
        assert bool((result.adversarial.abs() == 1).any())


@BOTH
@pytest.mark.parametrize("candidates", [2, 3, 4, None, 99])
def test_candidates_are_the_largest_clean_logits(candidates):
    model, x = linear(6, torch.float64), draw(30, 7)
    z = model(x).detach()
    kept = z.topk(min(candidates or 6, 6), dim=1).indices
    want = []
    for row, sample in zip(kept, x, strict=True):  # the closed form among the kept classes
        part = nn.Linear(7, len(row)).double()
        part.weight.data, part.bias.data = model.weight.data[row], model.bias.data[row]
        distance, nearest = closed_form(part, sample[None])
        want.append((float(distance), int(row[nearest])))
    result = deepfool(model, x, candidates=candidates, steps=1)
    torch.testing.assert_close(result.norm, 1.02 * z.new_tensor([d for d, _ in want]))
    assert bool((result.vjps == min(candidates or 6, 6) - 1).all())
    w = model.weight.detach()
    direction = w[[k for _, k in want]] - w[result.before]
    cosine = torch.nn.functional.cosine_similarity(direction, result.r)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@BOTH
def test_parity_with_foolbox():
    reason = "foolbox is an optional rival (pip install jacfast[rivals]); parity needs it"
    foolbox = pytest.importorskip("foolbox", reason=reason)
    model, x = build("cnn", samples=64, dtype=torch.float32, seed=4)
    x = x.sigmoid()
    labels = model(x).argmax(dim=1)
    attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    rival = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    _, theirs, fooled = attack(rival, x, labels, epsilons=None)
    result = deepfool(model, x, clip=(0, 1), floor=1e-4, candidates=10)
    assert torch.equal(result.success, fooled)
    assert int(fooled.sum()) > 32
    mine, other = result.norm[fooled], (theirs - x).flatten(1).norm(dim=1)[fooled]
    assert float(mine.mean()) == pytest.approx(float(other.mean()), rel=0.01)
    close = (mine - other).abs() < 0.01 * other
    assert float(close.float().mean()) > 0.9
