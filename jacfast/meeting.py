"""Where processes meet, torchrun's, those of torch.distributed, or this one alone: PyTorch's store.

What one has to say to the others, the waiting for them, and that nobody waits for ever.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Self

from torch import distributed

from jacfast.calling import warn

SOON = 30.0  # seconds until a process that waits says so
PATIENCE = 1800.0  # seconds without a sign of the others, PyTorch's own default
SIGNS = "jacfast: signs of work"  # of all jobs: one process may wait in another job than it works


class Meeting:
    """Process `rank` of `size`, from 0, and the store in which they meet."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size
        self._job = store.add(f"jacfast: jobs of {rank}", 1)  # every process counts the same ones

    @classmethod
    def here(cls) -> Self:
        """Return that of torch.distributed if it is initialised, or torchrun's, or one of one."""
        if distributed.is_available() and distributed.is_initialized():
            store = distributed.distributed_c10d._get_default_store()
            return cls(store, distributed.get_rank(), distributed.get_world_size())
        if launched():
            return cls(*next(distributed.rendezvous("env://", timeout=timedelta(seconds=PATIENCE))))
        if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            raise ValueError(
                "WORLD_SIZE must be 1 or unset in a process that neither torchrun nor a group of "
                f"torch.distributed joins to others; got {os.environ['WORLD_SIZE']}: each process "
                "would do the whole job. Start with torchrun, or call init_process_group first"
            )
        return cls(_Alone(), 0, 1)

    def check(self) -> None:
        """Raise ConnectionAbortedError if another process has stopped."""
        if self._has("error"):
            words = self._get("error")
            raise ConnectionAbortedError(f"another process of this job has stopped, {words}")

    def told(self, make: Callable[[], Any]) -> Any:
        """Return what the first process makes, something that JSON has."""
        name = f"told {self._add(f'told to {self.rank}')}"
        if self.rank == 0:
            with self.working():
                self._store.set(self._key(name), json.dumps(make()))
        self._wait(lambda: self._has(name), "the first process")
        return json.loads(self._get(name))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Give signs meanwhile, for what one process does alone: the others wait as long as that.

        They come of a thread, so they end with the process.
        """
        through = threading.Event()

        def sign() -> None:
            while not through.wait(SOON / 3):
                with contextlib.suppress(Exception):  # who works will find that the store is gone
                    self._store.add(SIGNS, 1)

        thread = threading.Thread(target=sign, daemon=True)
        thread.start()
        try:
            yield
        finally:
            through.set()
            thread.join()

    def _meet(self, bar: Any = None) -> None:
        """Wait for all."""
        name = f"meeting {self._add(f'meetings of {self.rank}')}"
        self._add(name)
        self._wait(lambda: self._add(name, 0) == self.size, "the others", bar)
        if bar is not None:
            show(bar, self._done())

    def _key(self, name: str) -> str:
        return f"jacfast: job {self._job}: {name}"

    def _has(self, name: str) -> bool:
        return self._store.check([self._key(name)])

    def _get(self, name: str) -> str:
        return bytes(self._store.get(self._key(name))).decode()

    def _add(self, name: str, number: int = 1) -> int:
        return self._store.add(self._key(name), number)

    def _done(self) -> int:
        return self._add("done", 0)

    def _wait(self, ready: Callable[[], bool], whom: str, bar: Any = None) -> None:
        seen, since, said = (-1, -1), time.monotonic(), False
        while not ready():
            self.check()
            done = self._done()
            if (signs := (done, self._store.add(SIGNS, 0))) != seen:
                seen, since = signs, time.monotonic()
                if bar is not None:
                    show(bar, done)
            waited = time.monotonic() - since
            if waited > SOON and not said and not done:
                said = True
                warn(
                    f"process {self.rank} of {self.size} waits for {whom}: every process of the "
                    "group must make this call, with the same arguments"
                )
            if waited > PATIENCE:
                raise TimeoutError(
                    f"process {self.rank} of {self.size} has waited {PATIENCE:g} s for {whom} "
                    "without a sign of progress (a batch done): is one gone, or a batch too large?"
                )
            time.sleep(0.02)


class _Alone(dict[str, Any]):
    """The store of a process without others."""

    def add(self, key: str, number: int) -> int:
        self[key] = self.get(key, 0) + number
        return self[key]

    def set(self, key: str, words: str) -> None:
        self[key] = words.encode()

    def check(self, keys: list[str]) -> bool:
        return keys[0] in self


def launched() -> bool:
    """Say whether torchrun has started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def place() -> tuple[int, int]:
    """Return (rank, local rank) of this process: (0, 0) of one that is alone."""
    if launched():
        return int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    return 0, 0


def show(bar: Any, done: int) -> None:
    """Have a bar show so many batches."""
    bar.update(done - bar.n)
