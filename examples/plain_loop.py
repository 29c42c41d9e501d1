"""Two lines more in a plain training loop: train on digits with the penalty, then DeepFool."""

import torch
import torch.nn.functional as F

import jacfast
from jacfast import data, models

digits = data.load(None)
for lam in (0.0, 0.03):
    torch.manual_seed(0)
    model = models.seck_c()
    optimizer = torch.optim.Adam(model.parameters())
    for _epoch in range(10):
        for batch in torch.randperm(len(digits.train_x)).split(100):
            x, y = digits.train_x[batch].requires_grad_(), digits.train_y[batch]
            logits = model(x)
            loss = F.cross_entropy(logits, y) + lam * jacfast.frobenius_penalty(logits, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    accuracy = (model(digits.test_x).argmax(1) == digits.test_y).float().mean()
    rho = jacfast.rho_adv(model, digits.test_x)
    print(f"lam {lam}: accuracy {100 * accuracy:.1f}%, rho_adv {rho:.3f}")
