"""The penalty under Accelerate: the model is wrapped before it is prepared; then DeepFool."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import jacfast
from jacfast import data, models
from jacfast.training import Schedule

accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
digits = data.load(None)
for lam in (0.0, 0.03):
    torch.manual_seed(0)
    weight = Schedule(lam, warmup=40)
    model = jacfast.WithPenalty(models.seck_c(), jacfast.Frobenius())
    batches = DataLoader(TensorDataset(digits.train_x, digits.train_y), 50, shuffle=True)
    model, optimizer, batches = accelerator.prepare(
        model, torch.optim.Adam(model.parameters()), batches
    )
    step = 0  # of the optimiser
    for _epoch in range(5):
        for x, y in batches:
            with accelerator.accumulate(model):
                logits, penalty = model(x)
                accelerator.backward(F.cross_entropy(logits, y) + weight(step) * penalty)
                optimizer.step()
                optimizer.zero_grad()
            step += accelerator.sync_gradients
    plain = accelerator.unwrap_model(model).model.eval()
    accuracy = (plain(digits.test_x).argmax(1) == digits.test_y).float().mean()
    rho = jacfast.rho_adv(plain, digits.test_x)
    print(f"lam {lam}: accuracy {100 * accuracy:.1f}%, rho_adv {rho:.3f}")
