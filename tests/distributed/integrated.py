"""A training in float64 by each integration, as one of the processes of torchrun."""

import os
import sys
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import jacfast
from tests.integrations import hand
from tests.nets import mlp

LAM, CLIP, ACCUMULATED, BATCH = 0.3, 0.5, 2, 8
PENALTY = jacfast.Frobenius(2)


def source() -> torch.Generator:
    """Return what the projections are drawn from."""
    return torch.Generator().manual_seed(5)


def data() -> list:
    return [(x.double(), y) for x, y in hand.batches([BATCH] * 6)]


def model() -> nn.Module:
    torch.manual_seed(0)
    return mlp().double()


def samples() -> TensorDataset:
    return TensorDataset(*(torch.cat(part) for part in zip(*data(), strict=True)))


def lightning(net: nn.Module, processes: int) -> None:
    import lightning.pytorch as pl

    from jacfast.integrations.lightning import JacobianPenalty

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    rank = int(os.environ["RANK"])
    sampler = DistributedSampler(samples(), processes, rank, shuffle=False)  # its own one shuffles
    pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=processes, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=ACCUMULATED, gradient_clip_val=CLIP,
        callbacks=[JacobianPenalty(LAM, PENALTY, "net", generator=source())],
    ).fit(Module(), DataLoader(samples(), BATCH // processes, sampler=sampler))  # fmt: skip


def accelerate(net: nn.Module, processes: int) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    parallel, optimizer, loader = accelerator.prepare(
        jacfast.WithPenalty(net, PENALTY, generator=source()),
        torch.optim.SGD(net.parameters(), 0.1),
        DataLoader(samples(), BATCH // processes),
    )
    for x, y in loader:
        with accelerator.accumulate(parallel):
            logits, penalty = parallel(x)
            accelerator.backward(F.cross_entropy(logits, y) + LAM * penalty)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parallel.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()


class Answering(nn.Module):
    """A model as the Hugging Face Trainer calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values, labels=None):
        logits = self.net(pixel_values)
        loss = {} if labels is None else {"loss": F.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def collate(pairs):
    x, y = zip(*pairs, strict=True)
    return {"pixel_values": torch.stack(x), "labels": torch.stack(y)}


def transformers(net: nn.Module, processes: int) -> None:
    from transformers import TrainingArguments

    from jacfast.integrations.transformers import JacobianTrainer

    settings = TrainingArguments(
        output_dir=sys.argv[1] + ".folder", report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no", logging_strategy="no", max_grad_norm=CLIP, num_train_epochs=1,
        optim="sgd", learning_rate=0.1, lr_scheduler_type="constant",
        gradient_accumulation_steps=ACCUMULATED, train_sampling_strategy="sequential",
        per_device_train_batch_size=BATCH // processes,
    )  # fmt: skip
    JacobianTrainer(
        model=Answering(net), args=settings, data_collator=collate, train_dataset=samples(),
        jacobian_schedule=LAM, jacobian_penalty=PENALTY,
        jacobian_options={"generator": source()},
    ).train()  # fmt: skip


KINDS = {kind.__name__: kind for kind in (lightning, accelerate, transformers)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the packages' own, on loaders and loggers
    found = {}
    for name, kind in KINDS.items():
        net = model()
        kind(net, int(os.environ["WORLD_SIZE"]))
        found[name] = net.state_dict()
    if os.environ["RANK"] == "0":
        torch.save(found, sys.argv[1])
