"""The table 'In short' of benchmarks/README.md, for `bench_tables.py`: a row for each question."""

from collections.abc import Iterator

STEPS = {
    "step-tf_cnn-cpu": "TF-tutorial CNN at 500",
    "step-cifar_cnn-cpu": "CIFAR CNN at 128",
    "step-mlp-cpu": "MLP at 500",
    "step-vit-cpu": "ViT of 4 blocks at 64",
}
SMALL = {
    "mlp 784-200-200-10, N = 64": "MLP 784-200-200-10 at 64",
    "5 conv1d, GELU, N = 256": "5 conv1d with GELU at 256",
    "96 residual blocks, N = 16": "96 residual blocks at 16",
    "ViT, 2 blocks, N = 32": "ViT of 2 blocks at 32",
}
DEEPFOOL = {
    "mnist-foolbox": "DeepFool, 1,000 MNIST digits, TF-tutorial CNN, equal choices, mean ‖r‖ and "
    "success: foolbox 3.3.4 / jacfast",
    "mnist-art": "the same, 200 digits: ART 1.20.1, 128 images at a time / jacfast",
    "mnist-torchattacks": "the same: torchattacks 3.5.1 / jacfast",
    "classes-foolbox": "100 classes, all candidates, equal choices: foolbox / jacfast",
}
FILES = (
    *STEPS,
    *("sizes-all-1-cpu", "sizes-zoo-1-cpu", "robustness-tf_cnn-cpu", "robustness-mlp-cpu"),
    *(f"deepfool-{case}-cpu" for case in DEEPFOOL),
    *("memory-cpu", "ops-cpu"),
)


def short(*files: dict) -> Iterator[list[str]]:
    found = dict(zip(FILES, files, strict=True))
    yield ["", ""]
    yield from _steps([found[name]["contenders"] for name in STEPS])
    yield from _small(found["sizes-all-1-cpu"], found["sizes-zoo-1-cpu"])
    yield _time_to_robustness(found["robustness-tf_cnn-cpu"], found["robustness-mlp-cpu"])
    for case, words in DEEPFOOL.items():
        yield [words, f"{found[f'deepfool-{case}-cpu']['rows']['same choices']['ratio']:.1f}"]
    memory, ops = found["memory-cpu"], found["ops-cpu"]["ratios"]
    beyond = memory["deepfool_bytes"] - memory["model_bytes"]
    yield [
        "K = 1,000, D = 150,528, N = 8: memory beyond the model's, against all rows at once",
        f"{beyond / 1e6:.1f} MB, {memory['all_rows_bytes'] / 1e6:,.0f} MB",
    ]
    gain = ops["step: eager over fused"]
    yield ["fused DeepFool step, rows [500, 10, 3072]: eager PyTorch / jacfast", f"{gain:.1f}"]
    share = ops["deepfool_step: share of the bandwidth of torch.sum of rows"]
    yield ["the same step: share of the bandwidth of `torch.sum`", f"{share:.0%}"]


def _steps(networks: list[dict]) -> Iterator[list[str]]:
    def cells(figure: str, form: str, *who: str, scale: float = 1) -> str:
        """Return a figure of every network, each with that of all who are named."""
        each = [[format(scale * of[name][figure], form) for name in who] for of in networks]
        return "; ".join(map(", ".join, each))

    ours, by_hand = "jacfast, n = 1", "one vector, autograd"
    words = "; ".join(STEPS.values())
    yield [f"penalised step, n = 1, in plain steps: {words}", cells("plain_steps", ".2f", ours)]
    rivals = cells("plain_steps", ".2f", by_hand, "JacobianReg, n = 1")
    yield [
        "the same by autograd: by one vector, as a careful user writes it, by JacobianReg",
        rivals,
    ]
    quarter = cells("plain_steps", ".2f", f"{ours}, subsample 1/4")
    yield ["on a quarter of each batch", quarter]
    exact = cells("plain_steps", ".1f", "jacfast, exact", "loop")
    yield ["exact, K = 10, by jacfast, by the usual loop over the classes", exact]
    peaks = cells("peak_bytes", ",.0f", ours, by_hand, "loop", scale=1e-6)
    yield ["most memory at once, MB: n = 1 by jacfast, by one vector, by the usual loop", peaks]


def _small(sizes: dict, zoo: dict) -> Iterator[list[str]]:
    words = "small and modern networks, n = 1, in plain steps, by jacfast, by autograd: "
    pairs = [[sizes[name][who] for who in ("jacfast", "double backward")] for name in SMALL]
    steps = (", ".join(f"{of['plain_steps']:.2f}" for of in pair) for pair in pairs)
    yield [words + "; ".join(SMALL.values()), "; ".join(steps)]
    words = "ten networks of torchvision and timm, n = 1, of the time of double backward"
    shares = [of["jacfast"]["of_double_backward"] for of in zoo.values()]
    yield [words, f"{min(shares):.2f} to {max(shares):.2f}"]


def _time_to_robustness(*networks: dict) -> list[str]:
    gains = []
    for seconds in (found["seconds_to_goal"] for found in networks):
        rivals = (seconds["loop, exact"], seconds["JacobianReg, n = 1"])
        loop, reg = (rival / seconds["jacfast, subsample 1/4"] for rival in rivals)
        gains.append(f"{loop:.1f}, {reg:.2f}")
    words = (
        "time to 95% of the rho_adv that exact training reaches, a quarter of each batch: exact "
        "loop / jacfast, JacobianReg with n = 1 / jacfast: TF-tutorial CNN; MLP"
    )
    return [words, "; ".join(gains)]


TABLES: dict[str, tuple] = {"in short": (short, *FILES)}
