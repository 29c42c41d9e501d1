"""The choices of deepfool: norms, targets, caps, masks, presets, and SuperDeepFool."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from jacfast import deepfool, rho_adv, vjp
from jacfast.attacks import PRESETS
from tests.nets import build, draw

pytestmark = pytest.mark.usefixtures("either_loop")
DOUBLE = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


def linear(classes: int = 5, size: int = 7) -> nn.Linear:
    model = nn.Linear(size, classes)
    model.weight.data, model.bias.data = draw(classes, size, seed=2), draw(classes, seed=3)
    return model.double()


def boundaries(model: nn.Linear, x: Tensor, restrict=lambda w: w) -> tuple[Tensor, Tensor, Tensor]:
    """Return f [N, K], w [N, K, D] and the class to leave [N], of a linear classifier."""
    z = model(x).detach()
    k0 = z.argmax(dim=1)
    w = model.weight.detach() - model.weight.detach()[k0][:, None]
    return z - z.gather(1, k0[:, None]), restrict(w), k0


@pytest.mark.parametrize("p", [1.5, 2, 3, math.inf])
def test_p_norm_of_a_linear_classifier_in_closed_form(p):
    model, x = linear(), draw(30, 7)
    f, w, k0 = boundaries(model, x)
    q = 1 if math.isinf(p) else p / (p - 1)
    distance = (f.abs() / w.norm(q, dim=2)).scatter(1, k0[:, None], math.inf).min(dim=1)
    result = deepfool(model, x, p=p)
    DOUBLE(result.norm, 1.02 * distance.values)
    DOUBLE(result.norm, result.r.norm(p, dim=1))
    assert torch.equal(result.label, distance.indices)
    # On the boundary of the linearisation: w . r = 1.02 |f|.
    sample = torch.arange(30)
    crossed = (w[sample, distance.indices] * result.r).sum(dim=1)
    DOUBLE(crossed, 1.02 * f[sample, distance.indices].abs())
    assert result.p == p


def test_rho_is_in_the_norm_of_the_attack():
    model, x = linear(), draw(30, 7)
    norm = deepfool(model, x, p=math.inf).norm
    want = float((norm / x.abs().amax(dim=1)).mean())
    assert rho_adv(model, x, p=math.inf) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("away", [1, 2, 3, 4])
def test_targets_of_a_linear_classifier_are_reached(away, p):
    model, x = linear(), draw(20, 7)
    target = (model(x).argmax(dim=1) + away) % 5
    result = deepfool(model, x, target=target, p=p, steps=1000)
    assert bool(result.success.all())
    assert torch.equal(result.label, target)
    free = deepfool(model, x, p=p, candidates=None)
    assert bool((result.norm >= free.norm / 1.02 * (1 - 1e-12)).all())


@pytest.mark.parametrize("network", ["mlp", "smooth_mlp", "cnn"])
def test_targets_are_reported_as_they_are(network, either_loop):
    """Of an untrained network not every class can be reached from everywhere."""
    model, x = build(network, 20)
    before = model(x).argmax(dim=1)
    target = (before + 1) % 5
    result = deepfool(model, x, target=target)
    assert torch.equal(result.success, model(result.adversarial).argmax(dim=1) == target)
    assert result.success.any()
    assert torch.equal(result.before, before)
    there = deepfool(model, x, target=before)
    assert bool(there.success.all())
    assert not there.r.any()
    assert either_loop == "gpu" or int(there.vjps.sum()) == 0


def test_target_of_a_binary_linear_classifier_is_the_untargeted_step():
    model, x = linear(classes=2), draw(30, 7)
    target = 1 - model(x).argmax(dim=1)
    DOUBLE(deepfool(model, x, target=target).r, deepfool(model, x).r)


@pytest.mark.parametrize("p", [2, math.inf])
def test_a_cap_is_kept_and_costs_only_those_beyond_it(p):
    model, x = linear(), draw(40, 7)
    free = deepfool(model, x, p=p)
    cap = float(free.norm.median())
    capped = deepfool(model, x, p=p, max_norm=cap)
    assert float(capped.norm.max()) <= cap * (1 + 1e-12)
    within = free.norm < 0.999 * cap
    assert within.any()
    assert (~within).any()
    DOUBLE(capped.r[within], free.r[within])
    assert bool(capped.success[within].all())
    assert not bool(capped.success[free.norm > 1.03 * cap].any())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_a_mask_leaves_the_rest_alone(dtype):
    model, x = linear(), draw(30, 7)
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1]).to(dtype)
    f, w, k0 = boundaries(model, x, lambda w: w * mask)
    distance = (f.abs() / w.norm(dim=2)).scatter(1, k0[:, None], math.inf).amin(dim=1)
    result = deepfool(model, x, mask=mask)
    assert not result.r[:, mask == 0].any()
    DOUBLE(result.norm, 1.02 * distance)
    nothing = deepfool(model, x, mask=torch.zeros(7))
    assert bool(nothing.stalled.all())
    assert not nothing.r.any()


def test_a_subspace_holds_r():
    model, x = linear(), draw(30, 7)
    basis = torch.linalg.qr(draw(7, 3, seed=9)).Q.T
    f, w, k0 = boundaries(model, x, lambda w: w @ basis.T @ basis)
    distance = (f.abs() / w.norm(dim=2)).scatter(1, k0[:, None], math.inf).amin(dim=1)
    result = deepfool(model, x, subspace=basis)
    DOUBLE(result.r @ basis.T @ basis, result.r)
    DOUBLE(result.norm, 1.02 * distance)


def test_super_keeps_to_a_mask_and_to_a_subspace():
    """Also in its projections, which are by gradients of their own."""
    model, x = build("smooth_mlp", 20)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
    found = deepfool(model, x, mask=mask, variant="super")
    assert bool(found.success.any())
    assert not found.r[:, mask == 0].any()
    basis = torch.linalg.qr(draw(6, 3, seed=9)).Q.T
    found = deepfool(model, x, subspace=basis, variant="super")
    assert bool(found.success.any())
    DOUBLE(found.r @ basis.T @ basis, found.r)


def stepwise(model, x, k0, overshoot, floor, inside, candidates, steps, p) -> tuple[Tensor, bool]:
    """Transcribe DeepFool with clipped steps for one sample: x += (1 + overshoot) step, clipped.

    `inside`: overshoot in each step (adv-lib, torchattacks), else once at the end (ART).
    """
    scale, point = 1 + overshoot, x.clone()
    order = [k for k in model(x[None])[0].argsort(descending=True).tolist() if k != k0]
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        z = model(leaf[None])[0]
        if int(z.argmax()) != k0:
            break
        best = None
        for k in sorted(order[: candidates - 1]):
            (w,) = torch.autograd.grad(z[k] - z[k0], leaf, retain_graph=True)
            size = float(w.norm() if p == 2 else w.abs().sum())
            if size == 0:
                continue
            ratio = abs(float((z[k] - z[k0]).detach())) / size + floor
            if best is None or ratio < best[0]:
                best = (ratio, w / size if p == 2 else w.sign())
        if best is None:
            break
        point = (point + (scale if inside else 1) * best[0] * best[1]).clamp(0, 1)
    if not inside:
        point = (x + scale * (point - x)).clamp(0, 1)
    return point, int(model(point[None])[0].argmax()) != k0


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("preset", ["advlib", "art"])
@pytest.mark.parametrize("network", ["mlp", "smooth_mlp", "cnn"])
def test_presets_with_clipped_steps_against_a_transcription(network, preset, p):
    model, x = build(network, 12)
    x = x.sigmoid()
    choices = PRESETS[preset]
    ours = deepfool(model, x, p=p, **choices)
    agree = 0
    for i in range(len(x)):
        want, fooled = stepwise(
            model,
            x[i],
            int(ours.before[i]),
            choices.get("overshoot", 0.02),
            choices.get("floor", 0.0),
            choices.get("linearize", "overshot") == "overshot",
            choices["candidates"] or 10,
            choices["steps"],
            p,
        )
        assert bool(ours.success[i]) == fooled
        if fooled and bool(ours.success[i]):
            agree += 1
            torch.testing.assert_close(ours.adversarial[i], want, rtol=0, atol=1e-6)
    assert agree >= 5


@pytest.mark.parametrize("p", [2, math.inf])
def test_foolbox_preset_against_foolbox(p):
    foolbox = pytest.importorskip("foolbox")
    model, x = build("cnn", 16, torch.float32)
    x = x.sigmoid()
    y = model(x).argmax(dim=1)
    kind = foolbox.attacks.L2DeepFoolAttack if p == 2 else foolbox.attacks.LinfDeepFoolAttack
    attack = kind(steps=50, candidates=10, overshoot=0.02)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, want, success = attack(peer, x, y, epsilons=None)
    ours = deepfool(model, x, y, p=p, **PRESETS["foolbox"])
    assert torch.equal(ours.success, success)
    norm = (want - x).flatten(1).norm(p, dim=1)
    assert success.sum() >= 8
    torch.testing.assert_close(ours.norm[success], norm[success], rtol=1e-3, atol=1e-5)


def test_lts4_and_paper_presets_on_a_linear_classifier():
    model, x = linear(), draw(30, 7)
    plain = deepfool(model, x).norm
    DOUBLE(deepfool(model, x, **PRESETS["lts4"]).norm, plain + 1.02e-4)
    # Algorithm 2 tests at x + r, on the boundary itself: rounding may ask for more steps there.
    torch.testing.assert_close(
        deepfool(model, x, **PRESETS["paper"]).norm, plain, rtol=1e-9, atol=1e-12
    )


class Ellipse(nn.Module):
    """Two classes, inside and outside an ellipse: the nearest point of the boundary is known."""

    def forward(self, x: Tensor) -> Tensor:
        inside = 1 - (x[:, 0] / 2) ** 2 - x[:, 1] ** 2
        return torch.stack([inside, -inside], dim=1)


def test_super_meets_the_boundary_at_a_right_angle():
    angle = torch.linspace(0, 2 * math.pi, 1_000_001, dtype=torch.float64)
    ellipse = torch.stack([2 * angle.cos(), angle.sin()], dim=1)
    x = 3 * draw(40, 2, seed=5)
    nearest = torch.cdist(x, ellipse).amin(dim=1)
    plain = deepfool(Ellipse(), x)
    better = deepfool(Ellipse(), x, variant="super")
    assert bool(better.success.all())
    assert float((better.norm / nearest).median()) < 1.002
    assert float((plain.norm / nearest).median()) > 1.01
    assert float((better.norm / nearest).min()) > 0.999


@pytest.mark.parametrize("either_loop", ["cpu"], indirect=True)  # the other computes rows in vain
def test_what_super_costs(either_loop, monkeypatch):
    """Of two classes a row for each step of DeepFool, in every round, and one each projection."""
    rows, projections, grad, project = [], [], vjp.grad, vjp.pull_back

    def counting(outputs, x, cotangent, create_graph, batched=False, **options):
        rows.extend([len(x)] * (len(cotangent) if batched else 1))
        return grad(outputs, x, cotangent, create_graph, batched, **options)

    def projecting(outputs, x, *rest, **options):
        projections.append(len(x))
        return project(outputs, x, *rest, **options)

    monkeypatch.setattr(vjp, "grad", counting)
    monkeypatch.setattr("jacfast.attacks.superdeepfool.pull_back", projecting)
    x = 3 * draw(20, 2, seed=5)
    alone = []
    for one in x.split(1):
        rows.clear()
        projections.clear()
        found = deepfool(Ellipse(), one, variant="super")
        assert int(found.vjps) == sum(rows)
        assert int(found.iterations) == sum(rows) - sum(projections)
        alone.append((int(found.iterations), len(projections)))
    assert len({rounds for _, rounds in alone}) > 1
    rows.clear()
    found = deepfool(Ellipse(), x, variant="super")  # where others carry some along for a row
    assert found.iterations.tolist() == [iterations for iterations, _ in alone]
    assert int(found.vjps.sum()) == sum(rows)


@pytest.mark.parametrize("either_loop", ["cpu"], indirect=True)  # as above
def test_super_costs_nothing_where_the_label_is_another_one_at_once(either_loop):
    x = 3 * draw(20, 2, seed=5)
    found = deepfool(Ellipse(), x, 1 - Ellipse()(x).argmax(dim=1), variant="super")
    assert found.vjps.tolist() == found.iterations.tolist() == [0] * 20
    assert torch.equal(found.adversarial, x)
    assert bool(found.success.all())


@pytest.mark.parametrize("network", ["mlp", "smooth_mlp", "cnn"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_super_is_never_longer(network, clip):
    model, x = build(network, 30)
    x = x.sigmoid()
    plain, better = (deepfool(model, x, clip=clip, variant=v) for v in ("deepfool", "super"))
    assert torch.equal(better.success, plain.success)
    assert bool((better.norm <= plain.norm).all())
    median = [result.norm[plain.success].median() for result in (better, plain)]
    if network != "smooth_mlp":  # nearly linear between the boundary and the images: no gain
        assert bool(median[0] < 0.98 * median[1])
    assert bool((better.vjps >= plain.vjps).all())
    if clip:
        assert float(better.adversarial.min()) >= 0
        assert float(better.adversarial.max()) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1}, "p must be > 1.*; got 1"),
        ({"p": math.nan}, "p must be > 1"),
        ({"max_norm": 0.0}, "max_norm must be > 0; got 0.0"),
        ({"clip_steps": True}, "clip_steps needs clip"),
        ({"mask": torch.ones(3)}, r"mask must have the shape of one sample, \[7\]; got \[3\]"),
        ({"subspace": torch.ones(2, 7)}, "orthonormal rows; the products are off by"),
        ({"subspace": torch.ones(2, 3)}, r"subspace must have shape \[m, D\]"),
        ({"subspace": torch.eye(7), "p": math.inf}, "p must be 2 with a subspace; got inf"),
        ({"mask": torch.full((7,), 2.0)}, "mask must hold nothing but 0 and 1"),
        ({"mask": torch.ones(7), "subspace": torch.eye(7)}, "give mask or subspace; got both"),
        ({"y": torch.zeros(4).long(), "target": torch.zeros(4).long()}, "got both"),
        ({"target": torch.full((4,), 9)}, r"target must lie in 0 .. K - 1 = 4; got 9 .. 9"),
        ({"target": torch.zeros(3).long()}, r"target must have shape \[N\] = \[4\]; got \[3\]"),
        ({"variant": "fast"}, "variant must be one of deepfool, super; got 'fast'"),
        ({"variant": "super", "p": 3.0}, "variant='super' needs p=2; got 3.0"),
        ({"variant": "super", "max_norm": 1.0}, "variant='super' needs max_norm=None; got 1.0"),
        ({"variant": "super", "target": torch.zeros(4).long()}, "needs target=None"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        deepfool(linear(), draw(4, 7), **options)


def test_a_mask_must_be_a_tensor():
    with pytest.raises(TypeError, match=r"mask must be a torch\.Tensor; got list"):
        deepfool(linear(), draw(4, 7), mask=[1] * 7)
