"""Penalise and attack a model of tokens through their embeddings, with its attention mask.

Token ids have no derivative. So x is what the ids are looked up as, and the model is called with it
as ``inputs_embeds``; the mask goes along as a further argument, sample by sample. The transformer
is small and starts from random weights; the task is whether token 1 is in the sentence.
"""

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification

import jacfast
from jacfast import evaluation

WORDS, LENGTH = 20, 12
EPS = 0.5  # of the attack, in the 2-norm of a whole sentence; an embedding has length 1


def sentences(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, masks and labels of sentences of 4 to 12 tokens, the rest padded with 0."""
    ids = torch.randint(2, WORDS, (count, LENGTH))
    mask = torch.arange(LENGTH) < torch.randint(4, LENGTH + 1, (count, 1))
    y = torch.randint(2, (count,))
    ids[:, 2] = torch.where(y == 1, 1, ids[:, 2])
    return ids * mask, mask.long(), y


class OfEmbeddings(torch.nn.Module):
    """A classifier of tokens as a function of their embeddings."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(inputs_embeds=x, attention_mask=attention_mask).logits


for lam in (0.0, 0.3):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=LENGTH, num_labels=2,
    )  # fmt: skip
    model = OfEmbeddings(BertForSequenceClassification(config))
    embeddings = model.model.get_input_embeddings()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _step in range(120):
        ids, mask, y = sentences(32)
        x = F.normalize(embeddings(ids), dim=2).detach()  # not trained: they keep their distances
        logits, penalty = jacfast.forward_with_penalty(model, x, kwargs={"attention_mask": mask})
        loss = F.cross_entropy(logits, y) + lam * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    ids, mask, y = sentences(200)
    x = F.normalize(embeddings(ids), dim=2).detach()
    given = {"kwargs": {"attention_mask": mask}}
    accuracy = evaluation.accuracy(model, x, y, **given)
    moved = jacfast.pgd(model, x, y, eps=EPS, p=2, clip=None, random_start=False, **given)
    attacked = evaluation.accuracy(model, moved, y, **given)
    print(f"lam {lam}: accuracy {100 * accuracy:.1f}%, under PGD {100 * attacked:.1f}%")
