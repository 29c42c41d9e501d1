"""deepfool over a data set: results on disk, and nothing lost or repeated after a kill."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from jacfast import DeepFoolResult, deepfool, deepfool_to_disk
from jacfast.attacks import stream
from jacfast.runs import checksum
from tests.attacks.streams import loader, same


@pytest.mark.parametrize("labels", [False, True])
def test_the_joined_result_is_that_of_one_call(tmp_path, problem, attacked, labels):
    model, x, y = problem
    found = deepfool_to_disk(tmp_path / "a", model, loader(x, y), labels=labels, p=3.0)
    want = DeepFoolResult.cat(
        [deepfool(model, x[i : i + 4], y[i : i + 4] if labels else None, p=3.0) for i in (0, 4, 8)]
    )
    same(found, want)
    assert found.p == 3.0
    assert attacked == [4, 4, 2]
    same(
        DeepFoolResult.load(tmp_path / "a" / "000001.safetensors"),
        deepfool(model, x[4:8], y[4:8] if labels else None, p=3.0),
    )


def test_it_goes_on_where_it_stopped(tmp_path, problem, attacked):
    model, x, y = problem
    whole = list(loader(x, y))

    def broken():
        yield from whole[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deepfool_to_disk(tmp_path, model, broken())
    (tmp_path / ".000002.safetensors.half").write_bytes(b"what a kill leaves of a write")
    assert attacked == [4, 4]
    found = deepfool_to_disk(tmp_path, model, whole)
    assert attacked == [4, 4, 2]
    again = deepfool_to_disk(tmp_path, model, whole)
    assert attacked == [4, 4, 2]
    same(again, found)
    same(found, DeepFoolResult.cat([deepfool(model, batch) for batch, _ in whole]))


def test_with_less_memory_it_goes_on(tmp_path, problem, attacked, monkeypatch):
    model, x, y = problem
    counting = stream.deepfool

    def hungry(model, x, y=None, *, batch_size=None, **options):
        if (batch_size or len(x)) > 2 and len(attacked) == 1:
            raise torch.OutOfMemoryError
        return counting(model, x, y, batch_size=batch_size, **options)

    monkeypatch.setattr(stream, "deepfool", hungry)
    with pytest.raises(torch.OutOfMemoryError):
        deepfool_to_disk(tmp_path, model, loader(x, y), batch_size=4)
    found = deepfool_to_disk(tmp_path, model, loader(x, y), batch_size=2)
    assert attacked == [4, 4, 2]
    torch.testing.assert_close(found.r, deepfool(model, x).r)


class Scaled(nn.Module):
    """Needs an argument beside x, and returns something else as well."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, scale):
        return {"other": -self.net(x), "own": scale * self.net(x)}


def test_further_arguments_of_the_model(tmp_path, problem):
    net, x, y = problem
    call = {"args": (2.0,), "output": "own"}
    found = deepfool_to_disk(tmp_path / "a", Scaled(net), loader(x, y, 10), **call)
    same(found, deepfool(Scaled(net), x, **call))
    kept = load_file(tmp_path / "a" / "000000.safetensors")["logits"]
    torch.testing.assert_close(kept, 2 * net(x).detach())
    call = {"kwargs": {"scale": 2.0}, "output": "own"}
    deepfool_to_disk(tmp_path / "b", Scaled(net), loader(x, y, 10), **call)
    same(deepfool_to_disk(tmp_path / "b", Scaled(net), loader(x, y, 10), **call), found)
    for changed, words in (
        ({"output": "other"}, "the model's"),
        ({"kwargs": {"scale": 3.0}}, "opt"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            deepfool_to_disk(tmp_path / "b", Scaled(net), loader(x, y, 10), **call | changed)


def test_one_target_for_all(tmp_path, problem, attacked):
    model, x, _ = problem
    parts = [x[:6], x[6:]]
    for _ in range(2):
        found = deepfool_to_disk(tmp_path, model, parts, target=1)
        reach = torch.ones(10, dtype=torch.int64).split(6)
        same(
            found,
            DeepFoolResult.cat(
                [deepfool(model, p, target=t) for p, t in zip(parts, reach, strict=True)]
            ),
        )
    assert attacked == [6, 4]
    with pytest.raises(ValueError, match=r"options was .*'target': 1.* and is now .*'target': 2"):
        deepfool_to_disk(tmp_path, model, parts, target=2)


def test_no_more_than_a_batch_size_of_samples_pass_at_a_time(tmp_path, problem):
    """When a file is made and when it is read."""
    model, x, _ = problem
    for _ in range(2):
        seen = []
        with model.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(len(given[0]))
        ):
            deepfool_to_disk(tmp_path, model, [x], batch_size=3)
        assert max(seen) == 3


def test_batches_of_x_alone(tmp_path, problem):
    model, x, _ = problem
    same(
        deepfool_to_disk(tmp_path, model, [x[:5], x[5:]]),
        DeepFoolResult.cat([deepfool(model, x[:5]), deepfool(model, x[5:])]),
    )
    with pytest.raises(ValueError, match=r"labels=True needs batches of \(x, y\); batch 0"):
        deepfool_to_disk(tmp_path / "b", model, [x], labels=True)
    with pytest.raises(ValueError, match="at least one batch; got none"):
        deepfool_to_disk(tmp_path / "c", model, [])


@pytest.mark.parametrize(
    "batch",
    [
        lambda x, y: {"pixel_values": x, "labels": y, "idx": y},
        lambda x, y: {"image": x.numpy(), "label": y.numpy().astype("int32")},
        lambda x, y: [x.flip(0).numpy()[::-1], y.int()],
        lambda x, y: (x, y, ["a name"] * len(x)),
    ],
)
def test_what_loaders_give(tmp_path, problem, batch):
    model, x, y = problem
    got = deepfool_to_disk(tmp_path, model, [batch(x, y)], labels=True, steps=np.int64(9))
    same(got, deepfool(model, x, y, steps=9))


def test_images_in_any_layout(tmp_path, problem):
    model, x, _ = problem
    got = deepfool_to_disk(tmp_path, model, [x.to(memory_format=torch.channels_last)])
    torch.testing.assert_close(got.r, deepfool(model, x).r)


@pytest.mark.parametrize(
    ("batches", "options", "words"),
    [
        (
            [{"a": 1, "b": 2}],
            {},
            "batches that are mappings must have one of x, .* batch 0 has a, b",
        ),
        ([{"image": 1, "data": 2}], {}, "must have one of x, .* batch 0 has image, data"),
        (
            [torch.zeros(2, 2, 8, 8).double(), ["x"]],
            {},
            "batches must be tensors .* batch 1 holds a str",
        ),
        (
            [torch.zeros(2, 2, 8, 8).double(), []],
            {},
            "batches must be tensors .* batch 1 holds a list",
        ),
        ([torch.zeros(2, 2, 8, 8)], {"clip": object()}, "clip must be a number, .* got object"),
        ([np.zeros((2, 2, 8, 8), "uint8")], {}, "x must be floating point"),
        (
            [(np.zeros((2, 2, 8, 8)), np.array([True, False]))],
            {"labels": True},
            "y must be .*int64",
        ),
        (
            [(np.zeros((2, 2, 8, 8)), np.array([0j, 1j]))],
            {"labels": True},
            "y must be .*int64",
        ),
        ([torch.zeros(2, 2, 8, 8)], {"target": True}, "target must be .* got bool"),
    ],
)
def test_what_is_no_batch_or_option_is_said(tmp_path, problem, batches, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        deepfool_to_disk(tmp_path / "out", problem[0], batches, **options)
    assert (tmp_path / "out").exists() == (len(batches) > 1)


def test_weights_that_are_not_finite_are_named_before_any_work(tmp_path, problem, attacked):
    model, x, _ = problem
    name, weight = next(iter(model.named_parameters()))
    weight.data.view(-1)[2] = float("nan")
    with pytest.raises(ValueError, match=f"the model's parameter {name} must be finite; 1 of "):
        deepfool_to_disk(tmp_path / "out", model, [x])
    assert not attacked
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named(tmp_path, problem):
    model, x, _ = problem
    deepfool_to_disk(tmp_path, model, [x])
    path = tmp_path / "000000.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"000000.*cut short \(truncated\): remove it"):
        deepfool_to_disk(tmp_path, model, [x])


@pytest.mark.parametrize("kind", ["quantised", "extra", "sparse", "tuple"])
def test_whatever_a_state_holds_has_a_checksum(kind):
    def of(number: float) -> str:
        w = torch.full((4, 4), number)
        value = {
            "quantised": torch.quantize_per_tensor(w, 0.1, 0, torch.quint8),
            "extra": {"scale": number},
            "sparse": w.to_sparse(),
            "tuple": (w, None),
        }[kind]
        return checksum([("weight", value)])

    assert of(0.5) == of(0.5)
    assert of(0.5) != of(1.5)


class Drawing(nn.Linear):
    """Draws in eval mode: from PyTorch's generator, or from that of NumPy."""

    def __init__(self, by_numpy):
        super().__init__(9, 4)
        self.by_numpy = by_numpy

    def forward(self, x):
        far = np.random.rand() if self.by_numpy else float(torch.rand(()))  # noqa: NPY002
        return super().forward(x) * (1 + far)


@pytest.mark.parametrize("by_numpy", [False, True])
def test_a_model_that_draws_goes_on(tmp_path, by_numpy):
    model, x = Drawing(by_numpy), torch.randn(20, 9)
    first = deepfool_to_disk(tmp_path, model, x.split(10))
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    again = deepfool_to_disk(tmp_path, model, x.split(10))
    after = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(again.adversarial, first.adversarial)
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
