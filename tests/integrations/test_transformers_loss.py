"""The Hugging Face Trainer's loss with the penalty: of one batch, against autograd."""

import copy
import functools

import pytest
import torch
from torch import nn

import jacfast
from tests.integrations import hand

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.integrations.trainers import (
    SHAPE,
    a_trainer_and_a_batch,
    logits_and_leaf,
    trainer,
    vit,
)

pytestmark = [
    pytest.mark.usefixtures("accelerate_state"),
    pytest.mark.filterwarnings("ignore"),  # of torch and of the package itself
]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_trainer_may_say_whether_its_loss_is_scaled(tmp_path, scaled):
    """Whoever sets it divides his loss by the micro-batches; so the penalty is, then alone."""
    run, inputs = a_trainer_and_a_batch(tmp_path)
    run.loss_is_scaled_for_ga, run.current_gradient_accumulation_steps = scaled, 4
    found = run.compute_loss(run.model, dict(inputs))
    value = hand.EXACT(*logits_and_leaf(run.model, inputs))
    want = run.model(**inputs).loss + 0.3 * value / (4 if scaled else 1)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=0)


def test_labels_of_another_name_are_of_the_loss_alone(tmp_path):
    """The penalty is of what the model returns without them, as at inference."""
    run, inputs = a_trainer_and_a_batch(tmp_path, label_names=["target"])
    net, seen = run.model, []

    def forward(pixel_values, target=None):
        seen.append(target is not None)
        logits = net(pixel_values=pixel_values).logits
        if target is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, target), "logits": 2 * logits}

    model = nn.Module()
    model.net, model.forward = net, forward
    given = {"pixel_values": inputs["pixel_values"], "target": inputs["labels"]}
    found = run.compute_loss(model.train(), dict(given))
    assert seen == [True, False]
    value = hand.EXACT(*logits_and_leaf(net, given))
    want = forward(**given)["loss"] + 0.3 * value
    torch.testing.assert_close(found, want, rtol=1e-4, atol=0)


def test_options_reach_the_penalty(tmp_path):
    name, inner = "vit.layers.0.mlp.fc1", []
    run, inputs = a_trainer_and_a_batch(tmp_path, jacobian_options={"layer": name})
    found = run.compute_loss(run.model, dict(inputs))
    model = vit().train()
    model.get_submodule(name).register_forward_hook(lambda *call: inner.append(call[2]))
    _, leaf = logits_and_leaf(model, inputs)
    want = model(**inputs).loss + 0.3 * hand.EXACT(inner[0], leaf)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=0)


def test_outputs_come_along(tmp_path):
    run, inputs = a_trainer_and_a_batch(tmp_path)
    loss, outputs = run.compute_loss(run.model, dict(inputs), return_outputs=True)
    value = hand.EXACT(*logits_and_leaf(run.model, inputs))
    torch.testing.assert_close(loss, outputs.loss + 0.3 * value, rtol=1e-4, atol=0)


@pytest.mark.parametrize("unused", [False, True])
def test_ddp_sends_the_gradient_of_both(tmp_path, unused):
    run, inputs = a_trainer_and_a_batch(tmp_path)
    run.compute_loss(run.model, dict(inputs)).backward()
    want = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    sent = []

    def hook(_, bucket):
        sent.extend(zip(bucket.parameters(), [g.clone() for g in bucket.gradients()], strict=True))
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(run.model, find_unused_parameters=unused)
        ddp.register_comm_hook(None, hook)
        run.compute_loss(ddp, dict(inputs)).backward()
    finally:
        torch.distributed.destroy_process_group()
    names = {p: name for name, p in run.model.named_parameters()}
    got = {names[p]: gradient for p, gradient in sent}
    assert len(sent) == len(got)  # each once
    assert want.keys() <= got.keys()
    for name, gradient in want.items():
        torch.testing.assert_close(got[name].view_as(gradient), gradient, rtol=1e-5, atol=1e-7)


class Masked(nn.Module):
    """A model with a mask for each sample, spectral norm, dropout and a counter."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
        self.head, self.calls = nn.Linear(8, 5), 0

    def forward(self, pixel_values, attention_mask, labels=None):
        self.calls += 1
        h = self.first(pixel_values.flatten(1)[:, :6] * attention_mask)
        logits = self.head(nn.functional.dropout(h.tanh(), 0.4, self.training))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if loss is not None else {"logits": logits}


def masked(folder, **options):
    torch.manual_seed(0)
    run = trainer(Masked(), hand.batches([4], SHAPE), folder, **options)
    ((x, y),) = hand.batches([4], SHAPE)
    mask = torch.tensor([[1.0] * 6, [0.0] * 3 + [1.0] * 3, [1.0] * 4 + [0.0] * 2, [0.5] * 6])
    return run, {"pixel_values": x, "labels": y, "attention_mask": mask}


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_one_step_changes_the_model_once_and_arguments_go_along(tmp_path, share):
    source = torch.Generator().manual_seed(3)
    penalty = jacfast.Frobenius("exact", subsample=share)
    run, inputs = masked(tmp_path, penalty=penalty, jacobian_options={"generator": source})
    twin = copy.deepcopy(run.model)
    torch.manual_seed(1)
    got = run.compute_loss(run.model.train(), dict(inputs))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    x = inputs["pixel_values"].clone().requires_grad_()
    outputs = twin.train()(**inputs | {"pixel_values": x})
    assert torch.equal(torch.get_rng_state(), state)
    assert run.model.calls == twin.calls == 1
    for one, other in zip(run.model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(one, other)
    rows = [
        torch.autograd.grad(outputs["logits"][:, k].sum(), x, create_graph=True)[0]
        for k in range(5)
    ]
    chosen = torch.randperm(4, generator=torch.Generator().manual_seed(3))[: int(4 * share)]
    chosen = chosen if share < 1 else torch.arange(4)
    want = outputs["loss"] + 0.3 * sum(row[chosen].square().sum() for row in rows) / len(chosen)
    torch.testing.assert_close(got, want)
    for one, other in zip(
        torch.autograd.grad(got, list(run.model.parameters())),
        torch.autograd.grad(want, list(twin.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("own", [False, True])
def test_each_step_has_draws_of_its_own(tmp_path, own):
    run, inputs = masked(tmp_path, penalty=jacfast.Frobenius())
    if own:
        run.jacobian_options["generator"] = run.model.source = torch.Generator()
    run.model.forward = functools.partial(undropped, run.model)
    torch.manual_seed(1)
    assert len({run.compute_loss(run.model.train(), dict(inputs)).item() for _ in range(5)}) == 5


def undropped(model, pixel_values, attention_mask, labels=None):
    logits = model.head((pixel_values.flatten(1)[:, :6] * attention_mask @ torch.ones(6, 8)).tanh())
    return {"loss": logits.sum(), "logits": logits}


class Noisy(nn.Module):
    """A small model with dropout, of x alone: its later steps may be plain double backward."""

    def __init__(self, norm):
        super().__init__()
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, pixel_values, labels=None):
        h = self.first(self.norm(pixel_values)).tanh()
        logits = self.head(nn.functional.dropout(h, 0.5, self.training))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


class Second(Noisy):
    """The same with another parameter before x."""

    def forward(self, ids=None, pixel_values=None, labels=None):
        assert ids is None
        return super().forward(pixel_values, labels)


OF_PENALTY = {  # autocast leaves float64 as it is
    "alone": {},
    "chunks": {"chunk_size": 2},
    "precision": {"precision": torch.bfloat16},
    "precision, chunks": {"precision": torch.bfloat16, "chunk_size": 2},
    "frozen": {"batch_norm": "frozen"},
}


@pytest.mark.parametrize("options", OF_PENALTY.values(), ids=OF_PENALTY)
@pytest.mark.parametrize("kind", [Noisy, Second])
def test_each_step_has_the_masks_of_its_loss_and_draws_nothing_else(tmp_path, kind, options):
    data = hand.batches([4])
    x, y = data[0][0].double(), data[0][1]
    torch.manual_seed(0)
    model = kind("batch_norm" in options).double()
    twin, penalty = copy.deepcopy(model), jacfast.InputGradient()
    run = trainer(model, data, tmp_path, penalty=penalty, jacobian_options=options)
    for _ in range(3):
        torch.manual_seed(1)
        got = run.compute_loss(run.model.train(), {"pixel_values": x, "labels": y})
        drawn = torch.rand(1)
        torch.manual_seed(1)
        loss = twin.train()(pixel_values=x, labels=y)["loss"]
        assert torch.equal(torch.rand(1), drawn)
        torch.manual_seed(1)
        twin.norm.eval()
        leaf = x.clone().requires_grad_()
        value = penalty(twin(pixel_values=leaf)["logits"], leaf, y)
        torch.testing.assert_close(got, loss + 0.3 * value)
