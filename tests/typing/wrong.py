"""Uses that type checkers must refuse, each with the error named beside it; run by no one."""

import torch
from torch import nn

import jacfast
from jacfast import attacks, evaluation, training

model, x, y = nn.Linear(3, 2), torch.rand(2, 3), torch.zeros(2).long()

jacfast.depfool(model, x)  # error: attr-defined
attacks.Deepfool  # error: attr-defined  # noqa: B018
jacfast.deepfool(model, x, variant="supr")  # error: arg-type
jacfast.deepfool(model, x, test="raw")  # error: arg-type
jacfast.deepfool(model, x, step=3)  # error: call-arg
jacfast.deepfool(model, x, steps="many")  # error: arg-type
jacfast.deepfool(model, x, max_iter=3)  # error: call-arg
jacfast.deepfool(model, x, kwargs=3)  # error: arg-type
jacfast.deepfool(model, x).norms  # error: attr-defined  # noqa: B018
jacfast.deepfool.result(model, x, variant="supr")  # error: arg-type
jacfast.fgsm(model, x, y)  # error: call-arg
jacfast.fgsm(model, x, y, eps="0.1")  # error: arg-type
jacfast.fgsm(model, x, y, eps=0.1).adversarial  # error: attr-defined  # noqa: B018
jacfast.pgd(model, x, eps=0.1, loss="hinge")  # error: arg-type
jacfast.pgd.result(model, x)  # error: call-arg
jacfast.jsma(model, x, steps=3, outputs="softmax")  # error: arg-type
jacfast.jacobian(model, x, chunk=3)  # error: call-arg
jacfast.forward_with_penalty(model, x, batch_norm="eval")  # error: arg-type
jacfast.forward_with_penalty(model, x, compiled="tracd")  # error: arg-type
jacfast.WithPenalty(model, chunk=3)  # error: call-arg
jacfast.WithPenalty(model)(x).backward()  # error: attr-defined
jacfast.penalised(model, batch_norm="eval")  # error: arg-type
jacfast.Frobenius("all")  # error: arg-type
jacfast.Frobenius(reduction="sum")  # error: arg-type
jacfast.DecisionFunction("l3")  # error: arg-type
jacfast.frobenius_penalty(x, x, batch_norm="frozen")  # error: arg-type
jacfast.rho_adv(model, x, over="al")  # error: arg-type
jacfast.distance_bounds(model, x).boundaries  # error: attr-defined  # noqa: B018
evaluation.input_direction(model, x, y, "randm")  # error: arg-type
evaluation.input_surface(model, x, y, x, 1.0, of="labels")  # error: arg-type
training.Defence(penalise="all")  # error: arg-type
