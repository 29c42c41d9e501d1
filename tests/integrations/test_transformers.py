"""The Hugging Face Trainer with the penalty against a plain loop."""

import copy
import functools
import importlib
import sys

import pytest
import torch
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand
from tests.step.writing import WRITING

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from jacfast.integrations.transformers import JacobianTrainer  # noqa: E402

SHAPE = (3, 8, 8)
pytestmark = [
    pytest.mark.usefixtures("accelerate_state"),
    pytest.mark.filterwarnings("ignore"),  # of torch and of the package itself
]


def vit(attention="eager"):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=5, attn_implementation=attention,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config)


class Logits(nn.Module):
    """The model as the hand loop calls it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x).logits


def by_hand(model):
    return Logits(model)


def collate(samples):
    x, y = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(x), "labels": torch.stack(y)}


def trainer(model, data, folder, *, schedule=0.3, penalty=hand.EXACT, batch=4, **options):
    """Return a Trainer over the samples of `data`, in their order, by SGD."""
    given = {k: options.pop(k) for k in list(options) if k.startswith(("jacobian", "compute"))}
    settings = {
        "output_dir": str(folder), "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "save_strategy": "no", "logging_steps": 1, "max_grad_norm": 0.0, "num_train_epochs": 1,
        "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant",
        "per_device_train_batch_size": batch, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    samples = [pair for x, y in data for pair in zip(x, y, strict=True)]
    return JacobianTrainer(
        model=model,
        args=transformers.TrainingArguments(**settings | options),
        data_collator=collate,
        train_dataset=samples,
        eval_dataset=samples[:4],
        jacobian_schedule=schedule,
        jacobian_penalty=penalty,
        **given,
    )


def test_equals_the_loop_by_hand(tmp_path):
    data, schedule = hand.batches([4] * 4, SHAPE), Schedule(0.3, start=1, warmup=2)
    model, twin = vit(), vit()
    run = trainer(model, data, tmp_path, schedule=schedule, max_grad_norm=0.5)
    run.train()
    seen = hand.train(by_hand(twin), hand.groups(data, 1), schedule, clip=0.5)
    hand.assert_same(model, twin)
    history = run.state.log_history[:4]
    assert "jacobian/penalty" not in history[0]
    for logged, want in zip(history, seen, strict=True):
        total = want["loss"] + want["lam"] * want["penalty"]
        assert logged["loss"] == pytest.approx(total, rel=1e-3)
        assert logged["jacobian/lam"] == pytest.approx(want["lam"])
        if want["lam"]:
            assert logged["jacobian/penalty"] == pytest.approx(want["penalty"], rel=1e-3)
            assert logged["jacobian/norm"] == pytest.approx(want["penalty"] ** 0.5, rel=1e-3)


def mean_loss(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs.logits, labels) / 3


@pytest.mark.parametrize("way", ["by items", "by the Trainer", "by a function", "label smoother"])
def test_accumulation(tmp_path, way):
    """The penalty is the mean over micro-batches, whoever normalises the loss."""
    data = hand.batches([4] * 5 + [2], SHAPE)
    model, twin = vit(), vit()
    options = {"by a function": {"compute_loss_func": mean_loss}}.get(way, {})
    run = trainer(model, data, tmp_path, gradient_accumulation_steps=3, **options)
    steps = hand.groups(data, 3)
    if way == "by the Trainer":
        run.model_accepts_loss_kwargs = False
        weights = [[1 / 3] * 3] * 2
    elif way == "by a function":  # the Trainer leaves its result as it is
        weights = [[1 / 3] * 3] * 2
    else:  # by the number of labels in the step
        weights = [[1 / 3] * 3, [0.4, 0.4, 0.2]]
    if way == "label smoother":
        run.label_smoother = transformers.trainer_pt_utils.LabelSmoother(epsilon=0.0)
    assert run.model_accepts_loss_kwargs == (way != "by the Trainer")
    run.train()
    hand.train(by_hand(twin), steps, Schedule(0.3), weights=weights)
    hand.assert_same(model, twin)


class Own(nn.Module):
    """A model of one's own, as the Trainer calls it."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.net = WRITING[name]()
        self.net.norm = nn.Identity()

    def forward(self, pixel_values, labels=None):
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize(
    "name", ["momentum, assigned", "momentum, in place", "spectral norm", "first values"]
)
def test_parameters_that_the_model_writes_to(tmp_path, name):
    data = hand.batches([4] * 4, (6,), classes=3)
    model, twin = Own(name), Own(name)
    trainer(model, data, tmp_path).train()
    hand.train(twin.net, hand.groups(data, 1), Schedule(0.3))
    hand.assert_same(model, twin)


def test_logging_means(tmp_path):
    data = hand.batches([4] * 5, SHAPE)
    model, twin = vit(), vit()
    penalty = jacfast.Frobenius("exact", every=2)
    run = trainer(model, data, tmp_path, penalty=penalty, logging_steps=2)
    run.train()
    seen = hand.train(by_hand(twin), hand.groups(data, 1), lambda step: 0.6 * (step % 2 == 0))
    hand.assert_same(model, twin)
    first, second, last = run.state.log_history
    for logged, index in ((first, 0), (second, 2)):  # the penalised one of each two
        assert logged["jacobian/penalty"] == pytest.approx(2 * seen[index]["penalty"], rel=1e-3)
        assert logged["jacobian/norm"] == pytest.approx(seen[index]["penalty"] ** 0.5, rel=1e-3)
    assert "train_loss" in last
    assert not [name for name in last if name.startswith("jacobian")]
    assert run._total is None  # the fifth batch's is not for the next training


def test_bf16(tmp_path):
    data = hand.batches([4] * 4, SHAPE)
    model, twin, exact = vit(), vit(), vit()
    start = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
    trainer(model, data, tmp_path, bf16=True, gradient_accumulation_steps=2).train()
    hand.train(by_hand(twin), hand.groups(data, 2), Schedule(0.3), bf16=True)
    hand.train(by_hand(exact), hand.groups(data, 2), Schedule(0.3))
    want = nn.utils.parameters_to_vector(twin.parameters()).detach()
    assert hand.moved(model, want) < 0.05 * hand.moved(exact, start)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("penalty", [jacfast.InputGradient(), hand.EXACT])
def test_labels_and_attention_that_has_no_second_derivative(tmp_path, penalty, checkpoints):
    data = hand.batches([4] * 2, SHAPE)
    model, twin = vit("sdpa"), vit()
    trainer(model, data, tmp_path, penalty=penalty, gradient_checkpointing=checkpoints).train()
    hand.train(by_hand(twin), hand.groups(data, 1), Schedule(0.3), penalty=penalty)
    hand.assert_same(model, twin)


def test_labels_that_the_trainer_takes_away(tmp_path):
    data, penalty = hand.batches([4] * 2, SHAPE), jacfast.InputGradient()
    model, twin = vit(), vit()
    trainer(model, data, tmp_path, penalty=penalty, compute_loss_func=mean_loss).train()
    steps, weights = hand.groups(data, 1), [[1 / 3]] * 2
    hand.train(by_hand(twin), steps, Schedule(0.3), penalty=penalty, weights=weights)
    hand.assert_same(model, twin)


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


def test_evaluation_is_left_alone(tmp_path):
    data = hand.batches([4], SHAPE)
    plain = trainer(vit(), data, tmp_path, schedule=0).evaluate()["eval_loss"]
    assert trainer(vit(), data, tmp_path, schedule=9.0).evaluate()["eval_loss"] == plain


def test_outputs_come_along(tmp_path):
    run, inputs = a_trainer_and_a_batch(tmp_path)
    loss, outputs = run.compute_loss(run.model, dict(inputs), return_outputs=True)
    value = hand.EXACT(*logits_and_leaf(run.model, inputs))
    torch.testing.assert_close(loss, outputs.loss + 0.3 * value, rtol=1e-4, atol=0)


def logits_and_leaf(model, inputs):
    x = inputs["pixel_values"].clone().requires_grad_()
    return by_hand(model)(x), x


def a_trainer_and_a_batch(folder, **options):
    data = hand.batches([4], SHAPE)
    run = trainer(vit(), data, folder, **options)
    run.model.train()
    return run, {"pixel_values": data[0][0], "labels": data[0][1]}


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


def test_options_and_refusals(tmp_path):
    options = {"jacobian_options": {"layer": "vit.layers.0.mlp.fc1"}}
    run, inputs = a_trainer_and_a_batch(tmp_path, **options)
    plain, _ = a_trainer_and_a_batch(tmp_path)
    assert run.compute_loss(run.model, inputs) != plain.compute_loss(plain.model, inputs)
    for name in ("labels", "inputs_embeds"):
        run, _ = a_trainer_and_a_batch(tmp_path, jacobian_input=name)
        with pytest.raises(ValueError, match=f"jacobian_input must name .*; got '{name}'"):
            run.compute_loss(run.model, dict(inputs))
    with pytest.raises(TypeError, match="jacobian_input must be the name of an input; got int"):
        a_trainer_and_a_batch(tmp_path, jacobian_input=1)
    with pytest.raises(TypeError, match="jacobian_options must be options by name; got str"):
        a_trainer_and_a_batch(tmp_path, jacobian_options="a")
    with pytest.raises(TypeError, match="options must be among layer"):
        a_trainer_and_a_batch(tmp_path, jacobian_options={"at": None})
    with pytest.raises(TypeError, match="penalty must be a jacfast Penalty"):
        a_trainer_and_a_batch(tmp_path, penalty=0.1)
    with pytest.raises(TypeError, match="schedule must be a number"):
        a_trainer_and_a_batch(tmp_path, schedule="0.1")


def test_what_a_penalty_learns_is_the_models_or_refused(tmp_path):
    weights = nn.Parameter(torch.ones(5))
    penalty = jacfast.Frobenius("exact", weights=weights)
    run, inputs = a_trainer_and_a_batch(tmp_path, penalty=penalty)
    with pytest.raises(ValueError, match=r"penalty must learn parameters of .* got weights of"):
        run.compute_loss(run.model, dict(inputs))
    run.model.weights = weights
    run.compute_loss(run.model, dict(inputs)).backward()
    assert bool((weights.grad > 0).all())


def test_what_a_penalty_keeps_is_the_models_or_refused(tmp_path):
    """Its second pass put the running mean back, so that it stayed where it began."""
    data = hand.batches([4] * 4, SHAPE)
    model, twin, alone = vit(), vit(), hand.Mean()
    run = trainer(model, data, tmp_path, penalty=hand.Normalised("exact", kept=alone))
    with pytest.raises(ValueError, match=r"penalty must keep buffers of ViT.* got kept.mean of"):
        run.train()
    model.kept = hand.Mean()
    penalty = hand.Normalised("exact", kept=model.kept)
    trainer(model, data, tmp_path, penalty=penalty, gradient_accumulation_steps=2).train()
    penalty = hand.Normalised("exact", kept=hand.Mean())
    hand.train(by_hand(twin), hand.groups(data, 2), Schedule(0.3), penalty=penalty)
    assert model.kept.calls == penalty.kept.calls == 4
    torch.testing.assert_close(model.kept.mean, penalty.kept.mean)
    del model.kept
    hand.assert_same(model, twin)


@pytest.mark.parametrize("name", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_parameters_in_pieces_are_refused(tmp_path, monkeypatch, name):
    make = transformers.Trainer.create_accelerator_and_postprocess

    def pretend(self):
        make(self)
        setattr(self, name, True)

    monkeypatch.setattr(transformers.Trainer, "create_accelerator_and_postprocess", pretend)
    with pytest.raises(ValueError, match="must not run under FSDP or DeepSpeed"):
        a_trainer_and_a_batch(tmp_path)


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    name = "jacfast.integrations.transformers"
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"run pip install 'jacfast\[transformers\]'$"):
        importlib.import_module(name)
