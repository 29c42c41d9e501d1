"""Hugging Face's caches of keys and values among the arguments: each pass begins where one does."""

import pytest
import torch

import jacfast
from jacfast import Frobenius, forward_with_penalty
from tests.nets import relative_error

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the package, and of steps that run eager


@pytest.fixture(scope="module")
def model():
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=11, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).double().eval()


class Last(torch.nn.Module):
    """The logits of the last token."""

    def __init__(self, language):
        super().__init__()
        self.language = language

    def forward(self, x, past):
        return self.language(inputs_embeds=x, past_key_values=past, use_cache=True).logits[:, -1, :]


def prefix(model):
    """Return the cache of two tokens, alike for each of three samples."""
    cache = transformers.DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2]]).expand(3, 2), past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("options", [{}, {"at": True}, {"compiled": "traced"}])
def test_a_cache_has_the_tokens_of_one_call_more(model, options):
    x = torch.randn(3, 4, 16).double()
    options = options | ({"at": x.clone()} if "at" in options else {})
    leaf = x.clone().requires_grad_()
    logits = Last(model)(leaf, prefix(model))
    want = Frobenius("exact")(logits, leaf)
    last, cache = Last(model), prefix(model)
    got, value = forward_with_penalty(
        last, x, penalty=Frobenius("exact"), kwargs={"past": cache}, **options
    )
    assert cache.get_seq_length() == 6
    assert relative_error(got.detach(), logits.detach()) < 1e-9
    assert relative_error(value.detach(), want.detach()) < 1e-9


def test_attacks_leave_a_cache_as_it_was(model):
    x, cache = torch.randn(3, 4, 16).double(), prefix(model)
    options = {"eps": 0.5, "clip": None, "steps": 3, "random_start": False}
    got = jacfast.pgd(Last(model), x, kwargs={"past": cache}, **options)
    assert cache.get_seq_length() == 2
    want = jacfast.pgd(lambda x: Last(model)(x, prefix(model)), x, **options)
    assert torch.equal(got, want)
