"""Classifiers of transformers in tiny sizes: images, spectrograms, texts as embeddings."""

import functools
from collections.abc import Callable

from torch import Tensor, nn

CLASSES = 3
Made = tuple[nn.Module, tuple[int, ...]]

IMAGE = {"image_size": 32, "num_channels": 3}
COLUMN = {  # what encoders of one width call their sizes
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "patch_size": 8,
}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0}
WINDOWS = {
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "patch_size": 2,
}
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2]}
PYRAMID = {
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
NO_DROPOUT = {
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "summary_first_dropout": 0.0,
}

IMAGES = {
    "vit": ("attention", "ViT", {**IMAGE, **COLUMN, **QUIET}),
    "deit": ("attention", "DeiT", {**IMAGE, **COLUMN, **QUIET}),
    "vit_msn": ("attention", "ViTMSN", {**IMAGE, **COLUMN, **QUIET}),
    "ijepa": ("attention", "IJepa", {**IMAGE, **COLUMN, **QUIET}),
    "dinov2": ("attention", "Dinov2", {**IMAGE, **COLUMN, **QUIET}),
    "dinov2_with_registers": ("attention", "Dinov2WithRegisters", {**IMAGE, **COLUMN, **QUIET}),
    "beit": ("attention", "Beit", {**IMAGE, **COLUMN, **QUIET}),
    "data2vec_vision": ("attention", "Data2VecVision", {**IMAGE, **COLUMN, **QUIET}),
    "hiera": (
        "attention",
        "Hiera",
        {**IMAGE, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "image_size": [32, 32]}
        | {"query_stride": [2, 2], "masked_unit_size": [4, 4], "num_query_pool": 1},
    ),
    "swin": ("window attention", "Swin", {**IMAGE, **WINDOWS, **QUIET}),
    "swinv2": ("window attention", "Swinv2", {**IMAGE, **WINDOWS, **QUIET}),
    "focalnet": (
        "window attention",
        "FocalNet",
        {**IMAGE, "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32], "patch_size": 4}
        | {"focal_levels": [1, 1], "focal_windows": [3, 3], **QUIET},
    ),
    "pvt": (
        "attention",
        "Pvt",
        {**IMAGE, **PYRAMID, **QUIET},
    ),
    "pvt_v2": (
        "attention",
        "PvtV2",
        {"image_size": 32, **PYRAMID, **QUIET},
    ),
    "cvt": (
        "attention and convolutions",
        "Cvt",
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}
        | {"attention_drop_rate": [0.0] * 3, "drop_rate": [0.0] * 3, "drop_path_rate": [0.0] * 3},
    ),
    "levit": (
        "attention and convolutions",
        "Levit",
        {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 3]}
        | {"depths": [1, 1, 1], "key_dim": [8, 8, 8]},
    ),
    "mobilevit": ("attention and convolutions", "MobileViT", {"image_size": 64, **QUIET}),
    "mobilevitv2": ("attention and convolutions", "MobileViTV2", {"image_size": 64}),
    "swiftformer": (
        "attention and convolutions",
        "SwiftFormer",
        {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 16, 32, 32]},
    ),
    "segformer": (
        "attention",
        "Segformer",
        {**PYRAMID, **QUIET, "classifier_dropout_prob": 0.0},
    ),
    "poolformer": (
        "mixers",
        "PoolFormer",
        {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0},
    ),
    "convnext": (
        "depthwise",
        "ConvNext",
        {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    ),
    "convnextv2": (
        "depthwise",
        "ConvNextV2",
        {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    ),
    "mobilenet_v1": ("depthwise", "MobileNetV1", {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("depthwise", "MobileNetV2", {"depth_multiplier": 0.35}),
    "resnet": ("residual", "ResNet", {**STAGES, "layer_type": "basic"}),
    "regnet": ("squeeze and excitation", "RegNet", {**STAGES, "groups_width": 8}),
    "bit": ("residual", "Bit", {**STAGES, "num_groups": 2}),
    "siglip": ("attention", "Siglip", {"vision_config": {**IMAGE, **COLUMN}}),
    "clip": ("attention", "CLIP", {"vision_config": {**IMAGE, **COLUMN}}),
    "audio_spectrogram": (
        "attention",
        "AST",
        {**COLUMN, **QUIET, "max_length": 24, "num_mel_bins": 16, "patch_size": 4}
        | {"time_stride": 4, "frequency_stride": 4},
    ),
}
SHAPES = {"levit": 64, "mobilevit": 64, "mobilevitv2": 64, "swiftformer": 64, "segformer": 64}

# Not llama and its kin: they compute in float32 inside, whatever the dtype, so that there is no
# float64 truth.
TEXTS = {
    "bert": ("Bert", {**TEXT, **QUIET}),
    "roberta": ("Roberta", {**TEXT, **QUIET}),
    "electra": ("Electra", {**TEXT, **QUIET, "embedding_size": 32}),
    "albert": ("Albert", {**TEXT, **QUIET, "embedding_size": 32, "classifier_dropout_prob": 0.0}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}
        | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    ),
    "deberta_v2": ("DebertaV2", {**TEXT, **QUIET}),
    "gpt2": (
        "GPT2",
        {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        | {"pad_token_id": 0, **NO_DROPOUT},
    ),
    "fnet": ("FNet", {**TEXT, "hidden_dropout_prob": 0.0}),
}


class FromEmbeddings(nn.Module):
    """A text classifier as a function of its word embeddings, its first differentiable input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor):
        """Return what the model returns for `embeddings` [N, words, width]."""
        return self.model(inputs_embeds=embeddings)


def image(name: str) -> Made:
    """Return a tiny classifier of images, or of spectrograms, and the shape of its input."""
    import transformers

    _, prefix, options = IMAGES[name]
    ending = "AudioClassification" if prefix == "AST" else "ImageClassification"
    config = getattr(transformers, f"{prefix}Config")(num_labels=CLASSES, **options)
    model = getattr(transformers, f"{prefix}For{ending}")(config)
    size = SHAPES.get(name, 32)
    return model, ((24, 16) if prefix == "AST" else (3, size, size))


def text(name: str) -> Made:
    """Return a tiny classifier of texts as a function of embeddings, and the shape of those."""
    import transformers

    prefix, options = TEXTS[name]
    config = getattr(transformers, f"{prefix}Config")(num_labels=CLASSES, **options)
    model = getattr(transformers, f"{prefix}ForSequenceClassification")(config)
    return FromEmbeddings(model), (6, 32)


CONFIGS: dict[str, tuple[str, Callable[[], Made]]] = {
    name: (kind, functools.partial(image, name)) for name, (kind, *_) in IMAGES.items()
} | {name: ("attention over words", functools.partial(text, name)) for name in TEXTS}
