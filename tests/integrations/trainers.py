"""A small vision transformer, the Trainer of it, and both by hand."""

import torch
import transformers
from torch import nn

from jacfast.integrations.transformers import JacobianTrainer
from tests.integrations import hand

SHAPE = (3, 8, 8)


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


def logits_and_leaf(model, inputs):
    x = inputs["pixel_values"].clone().requires_grad_()
    return Logits(model)(x), x


def a_trainer_and_a_batch(folder, **options):
    data = hand.batches([4], SHAPE)
    run = trainer(vit(), data, folder, **options)
    run.model.train()
    return run, {"pixel_values": data[0][0], "labels": data[0][1]}
