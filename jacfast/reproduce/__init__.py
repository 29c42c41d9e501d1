"""The papers' tables, reproduced: `jacfast reproduce NAME`."""

from jacfast.reproduce.config import load, names
from jacfast.reproduce.report import write
from jacfast.reproduce.run import networks, reproduce
from jacfast.reproduce.show import text

__all__ = ["load", "names", "networks", "reproduce", "text", "write"]
