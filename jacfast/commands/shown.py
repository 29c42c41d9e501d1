"""Figures as a command prints them."""


def lines(figures: dict[str, float]) -> str:
    """Return a line per figure."""
    width = max(map(len, figures))
    return "\n".join(f"{name:<{width}}  {value:>10.5g}" for name, value in figures.items())
