"""The papers' tables, reproduced: `jacfast reproduce NAME`."""

# ruff: noqa: F401 -- what is imported here is for the other rooms

from jacfast.reproduce.config import load, names
from jacfast.reproduce.every import estimated, plan
from jacfast.reproduce.report import write
from jacfast.reproduce.run import networks, reproduce
from jacfast.reproduce.show import text
