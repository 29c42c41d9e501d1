"""Runs: what makes two calls the same run, and the folder that belongs to one.

``folder``: a run has its folder to itself, with a note of what it is of, and leaves none behind
that holds nothing; ``lock``: one process at a time; ``same``: checksums, and what a model does,
since its weights do not say all.
"""

# ruff: noqa: F401 -- what is imported here is for the other rooms

from jacfast.runs.folder import check_own, claimed, compare, held
from jacfast.runs.lock import alone
from jacfast.runs.same import behaviour, check_behaviour, check_does, checksum, checksum_of, plain
