"""Uses that type checkers must accept; run by no one."""

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import jacfast
from jacfast import Frobenius, WithPenalty, attacks, data, evaluation, models, training
from jacfast.attacks.adapters import for_attackbench

model: nn.Module = models.seck_c()
digits = data.load(None)
x, y = digits.test_x, digits.test_y

assert_type(jacfast.fgsm(model, x, y, eps=0.1), Tensor)
assert_type(jacfast.pgd(model, x, eps=torch.ones(3, 1, 1), p=2, loss="margin", steps=3), Tensor)
assert_type(jacfast.bim(model=model, x=x, y=y, eps=8 / 255, clip=None), Tensor)
assert_type(jacfast.carlini_wagner(model, x, confidence=1), Tensor)
assert_type(jacfast.minimal_norm(model, x, budget=50), Tensor)
assert_type(jacfast.minimal_norm.result(model, x, y), jacfast.MinimalNormResult)
assert_type(jacfast.jsma(model, x, target=y, steps=5, outputs="probabilities"), Tensor)
found = jacfast.deepfool(model, x, variant="super", args=(1,), output="logits")
assert_type(found, jacfast.DeepFoolResult)
assert_type(found.norm, Tensor)
assert_type(found.summary(), str)
assert_type(jacfast.deepfool.result(model, x, steps=3), jacfast.DeepFoolResult)
assert_type(jacfast.pgd.result(model, x, y, eps=0.1), jacfast.AttackResult)
assert_type(jacfast.AttackResult.load(Path("a.safetensors")), jacfast.AttackResult)
assert_type(jacfast.DeepFoolResult.load("a.safetensors"), jacfast.DeepFoolResult)
jacfast.deepfool(lambda x: x, x, y, **attacks.PRESETS["foolbox"])
jacfast.deepfool_to_disk("out", model, [(x, y)], labels=True, steps=3)
assert_type(for_attackbench(model, x, y, steps=3), Tensor)

logits = model(x.requires_grad_())
assert_type(jacfast.frobenius_penalty(logits, x, n="exact", reduction="none"), Tensor)
assert_type(jacfast.jacobian(model, x, [1, 2], chunk_size=3, kwargs={"mask": y}), Tensor)
logits, penalty = jacfast.forward_with_penalty(model, x, batch_norm="frozen", compiled="auto")
assert_type(penalty, Tensor)
wrapped = WithPenalty(model, Frobenius("exact", reduction="none"), chunk_size=3)
assert_type(wrapped(x), tuple[Tensor, Tensor])
assert_type(wrapped(x, y, penalty=None, kwargs={"mask": y}), tuple[Tensor, Tensor])
with jacfast.penalised(model, y, penalty=jacfast.DecisionFunction("l2"), step=3) as held:
    assert_type(held.penalty, Tensor)
assert_type(jacfast.deep_defense_penalty(model, x, y, steps=3), Tensor)
jacfast.JacobianReg(2, batch_norm="coupled")

assert_type(jacfast.rho_adv(model, x, y, over="correct", steps=3), float)
assert_type(jacfast.distance_bounds(model, x, batch_size=3).nearest, Tensor)
assert_type(evaluation.accuracy(model, x, y), float)
assert_type(evaluation.accuracy_curve(model, x, y, jacfast.fgsm, [0.1]), list[float])
evaluation.input_surface(model, x[:1], y[:1], x[:2], 1.0, of="label")
evaluation.input_direction(model, x, y, "margin", seed=3)
training.fit(model, x, y, epochs=1, batch_size=10, lr=1e-3, loss=training.Defence(Frobenius(), 0.1))
training.attack_once(model, x, y, jacfast.deepfool, share=0.5)
training.Defence(penalty=Frobenius(), lam=1, attack=jacfast.deepfool, penalise="both")
