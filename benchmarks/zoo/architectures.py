"""Which architectures there are, by kind, and how each is made: random weights, three classes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.zoo import tiny

CLASSES = 3
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 299, 240)  # of images; the first that runs is taken

TORCHVISION = {
    "plain convolutions": "alexnet vgg11 vgg11_bn squeezenet1_0 squeezenet1_1",
    "residual": "resnet18 resnet34 resnet50 resnext50_32x4d regnet_x_400mf regnet_x_800mf",
    "dense and inception": "densenet121 googlenet",
    "depthwise": (
        "mobilenet_v2 shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5 mnasnet1_0 convnext_tiny"
    ),
    "squeeze and excitation": (
        "mobilenet_v3_small mobilenet_v3_large efficientnet_b0 regnet_y_400mf regnet_y_800mf"
    ),
    "attention": "vit_b_32",
    "window attention": "swin_t swin_v2_t maxvit_t",
}

TIMM = {
    "residual": (
        "resnet10t resnet14t resnetv2_18 resnest14d dla46_c regnetx_002 nf_ecaresnet26 "
        "skresnet18 cs3darknet_s cspnext_tiny hgnetv2_b0 selecsls42 resnetblur18"
    ),
    "dense and inception": "densenetblur121d dpn48b inception_v4 rdnet_tiny",
    "depthwise": (
        "convmixer_768_32 convnext_atto convnextv2_atto convnext_atto_rms dla60x "
        "inception_next_atto starnet_s050 mambaout_femto test_mambaout fasternet_t0 mixnet_s "
        "tf_mixnet_s fbnetc_100 spnasnet_100 mobileone_s1 repvgg_a0 repvit_m1 hardcorenas_a "
        "mobilenetv2_050 edgenext_xx_small"
    ),
    "squeeze and excitation": (
        "legacy_seresnet18 efficientnet_lite0 efficientnet_b0_gn lcnet_035 lcnetv2_small "
        "mobilenetv3_small_050 mobilenetv4_conv_small_050 tinynet_e ghostnet_050 ghostnetv3_050 "
        "repghostnet_050 rexnet_100 semnasnet_050 ese_vovnet19b_dw seresnet18 ecaresnet26t "
        "gcresnet33ts"
    ),
    "attention": (
        "deit_tiny_patch16_224 deit3_small_patch16_224 vit_tiny_patch16_224 cait_xxs24_224 "
        "convit_tiny crossvit_9_240 eva02_tiny_patch14_224 pit_ti_224 tnt_s_patch16_224 "
        "test_vit_relpos vit_tiny_r_s16_p8_224 xcit_nano_12_p16_224 xcit_tiny_12_p8_224 "
        "twins_svt_small pvt_v2_b0 hiera_tiny_224 mvitv2_tiny test_vit levit_128s "
        "levit_conv_128s vit_wee_patch16_reg1_gap_256"
    ),
    "window attention": (
        "swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 nest_tiny gcvit_xxtiny davit_tiny "
        "maxvit_pico_rw_256 coatnet_nano_rw_224 tiny_vit_5m_224 focalnet_tiny_srf halonet26t"
    ),
    "attention and convolutions": (
        "coat_lite_tiny efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 "
        "fastvit_t8 mobilevit_xxs mobilevitv2_050 swiftformer_xs shvit_s1 iformer_t "
        "lowformer_b0 cpubone_nano efficientvim_m1 botnet26t_256 lambda_resnet26t "
        "visformer_tiny"
    ),
    "mixers": (
        "resmlp_12_224 gmlp_ti16_224 gmixer_12_224 poolformer_s12 poolformerv2_s12 caformer_s18 "
        "convformer_s18"
    ),
}


class Architecture(NamedTuple):
    """One network of a zoo, and what it is called with."""

    name: str  # library/name
    kind: str
    make: Callable[[], tuple[nn.Module, tuple[int, ...]]]  # the shape is that of one input


# Quick ones of every kind, for where the whole sweep takes too long.
FEW = (
    "torchvision/squeezenet1_1",
    "torchvision/resnet18",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_small",
    "torchvision/mnasnet0_5",
    "timm/lcnet_035",
    "timm/test_mambaout",
    "timm/ghostnet_050",
    "timm/starnet_s050",
    "timm/dla46_c",
    "timm/resnet10t",
    "timm/test_vit",
    "timm/xcit_nano_12_p16_224",
    "timm/levit_128s",
    "timm/efficientvit_m0",
    "timm/mobilevit_xxs",
    "transformers/vit",
    "transformers/swinv2",
    "transformers/poolformer",
    "transformers/bert",
)


def architectures() -> Iterator[Architecture]:
    """Yield every architecture of the three zoos."""
    for zoo, make, table in (("torchvision", _torchvision, TORCHVISION), ("timm", _timm, TIMM)):
        for kind, names in table.items():
            for name in names.split():
                yield Architecture(f"{zoo}/{name}", kind, lambda n=name, m=make: m(n))
    for name, (kind, make) in tiny.CONFIGS.items():
        yield Architecture(f"transformers/{name}", kind, make)


def _torchvision(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import torchvision

    options: dict = {"num_classes": CLASSES}
    if name in ("googlenet", ""):
        options |= {"aux_logits": False, "init_weights": False}

    def make(size: int) -> nn.Module:
        sized = {"vit_b_32": {"image_size": size}, "maxvit_t": {"input_size": (size, size)}}
        return torchvision.models.get_model(name, **options, **sized.get(name, {}))

    return _smallest(make)


def _timm(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import timm

    def make(size: int) -> nn.Module:
        try:
            return timm.create_model(name, num_classes=CLASSES, img_size=size)
        except TypeError:  # it takes images of any size
            return timm.create_model(name, num_classes=CLASSES)

    return _smallest(make)


def _smallest(make: Callable[[int], nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the model for the smallest images it takes, and their shape."""
    why: Exception | None = None
    for size in SIZES:
        try:
            model = make(size).eval()
            with torch.no_grad():
                out = model(torch.rand(2, 3, size, size))
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
            why = error  # too small for it
            continue
        if tuple(out.shape) == (2, CLASSES) and bool(out.isfinite().all()):
            return model, (3, size, size)
    raise RuntimeError(f"runs with none of the sizes {SIZES}: {why}")
