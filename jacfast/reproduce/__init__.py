"""The papers' tables, reproduced: `jacfast reproduce NAME`."""

from jacfast.reproduce.config import load, names
from jacfast.reproduce.every import Planned, estimated, plan
from jacfast.reproduce.report import write
from jacfast.reproduce.run import networks, reproduce
from jacfast.reproduce.show import text

__all__ = [
    "Planned",
    "estimated",
    "load",
    "names",
    "networks",
    "plan",
    "reproduce",
    "text",
    "write",
]
