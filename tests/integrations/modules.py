"""A module for Lightning, and a short fit of one."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

from tests.nets import mlp


class Module(pl.LightningModule):
    """A network under the name `net`, SGD, and a training step to choose from."""

    def __init__(self, net=None, form="tensor", through="self", lr=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net = mlp() if net is None else net
        self.form, self.through, self.lr = form, through, lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        calls = {"self": self, "net": self.net}
        if self.through == "none":
            return self.net[0](x).sum()
        loss = F.cross_entropy(calls[self.through](x), y)
        if self.form == "skip" and batch_idx == 1:
            return None
        if self.form == "error" and batch_idx == 1:
            raise ZeroDivisionError("planted")
        return {"loss": loss, "more": 7} if self.form == "dict" else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Record(pl.Callback):
    """Keep what is logged, batch by batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        logged = trainer.logged_metrics.items()
        self.seen.append({name.removeprefix("jacobian/"): float(v) for name, v in logged})


def fit(module, data, *callbacks, epochs=1, begun=None, **options):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None), ckpt_path=begun)
    return trainer
