"""One argument more in a Lightning training: digits with the penalty, then DeepFool."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import jacfast
from jacfast import data, models
from jacfast.integrations.lightning import JacobianPenalty


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = models.seck_c()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


digits = data.load(None)
for lam in (0.0, 0.03):
    pl.seed_everything(0, verbose=False)
    module = Digits()
    batches = DataLoader(TensorDataset(digits.train_x, digits.train_y), 100, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=5, accelerator="cpu", callbacks=[JacobianPenalty(lam)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, batches)
    module.eval()
    accuracy = (module(digits.test_x).argmax(1) == digits.test_y).float().mean()
    rho = jacfast.rho_adv(module, digits.test_x)
    print(f"lam {lam}: accuracy {100 * accuracy:.1f}%, rho_adv {rho:.3f}")
