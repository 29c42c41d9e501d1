"""Which data set a folder holds, and which ones a table takes."""

from jacfast.data import Split
from jacfast.reproduce.config import Table

# By `Split.checksum`: of the names and the format of MNIST there are others.
KNOWN = {"a64cc0dca83e19f4": "Fashion-MNIST"}


def data_set(split: Split) -> str:
    """Return which data set it is: by its checksum, or as far as its format tells."""
    return KNOWN.get(split.checksum, split.name.split()[0].rstrip(","))


def taken(table: Table) -> tuple[str, ...]:
    """Return the data sets that a table can be made of, the paper's first."""
    return (table.paper_data, table.data) if table.paper_data else (table.data,)


def wanted(table: Table) -> str:
    """Return the same in words."""
    paper, *others = taken(table)
    return ", or ".join([f"{paper}, as in the paper", *others])


def check(table: Table, split: Split) -> None:
    """Refuse a data set that is another than those a table takes; what it is may be unknown.

    Raises:
        ValueError: see above.
    """
    if (found := data_set(split)) not in taken(table):
        known = f"{found}: " if found in KNOWN.values() else ""
        raise ValueError(f"data must be {wanted(table)}; got {known}{split.name}")
