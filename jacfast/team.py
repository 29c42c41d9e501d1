"""The processes that share a job: torchrun's, those of torch.distributed, or this one alone.

They meet in PyTorch's store. Whoever is free takes the next item of the job, so a slow process
holds up nobody; what stops one stops all, in words; and nobody waits for ever.
"""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from jacfast.calling import warn
from jacfast.progress import watch
from jacfast.runs import checksum, claimed

Item = TypeVar("Item")
SOON = 30.0  # seconds until a process that waits says so
PATIENCE = 1800.0  # seconds without a sign of the others, PyTorch's own default
MARK = ".team"  # what the first process writes, and the others must see


class Team:
    """Process `rank` of `size`, from 0, and the store in which they meet."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size
        self._job = store.add(f"jacfast: jobs of {rank}", 1)  # every process counts the same ones
        self.count = 0  # of the items of `share`, once it is through

    @classmethod
    def here(cls) -> "Team":
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

    @contextlib.contextmanager
    def group(self, device: torch.device) -> Iterator[None]:
        """Be a group of torch.distributed meanwhile; one that is there already is taken.

        Raises:
            ValueError: that one has no backend for tensors on `device`.
        """
        if distributed.is_initialized():
            config = distributed.get_backend_config()
            if device.type not in dict(pair.split(":") for pair in config.split(",")):
                raise ValueError(
                    f"the group of torch.distributed must have a backend for the device of model, "
                    f"{device.type}; got {config}: init_process_group() without a backend has "
                    "gloo for CPUs and NCCL for GPUs"
                )
            yield
            return
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = distributed.PrefixStore(self._key("group"), self._store)  # keys of its own
        patience = timedelta(seconds=PATIENCE)
        distributed.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=patience
        )
        try:
            yield
        finally:
            distributed.destroy_process_group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Stop the others where this process stops; where it loses them, say what has stopped them.

        Inside a group, so that it is said before the end of the group is felt by the others.
        """
        try:
            yield
        except BaseException as error:
            if _lost(error):
                # without its frames, which would hold the group open, and others wait
                raise self._stopped(error) from error.with_traceback(None)
            words = f"process {self.rank} of {self.size}: {type(error).__name__}: {error}"
            with contextlib.suppress(Exception):  # the store may be what failed
                if not self._has("error"):
                    self._store.set(self._key("error"), words)
            raise

    def check(self) -> None:
        """Raise ConnectionAbortedError if another process has stopped."""
        if self._has("error"):
            words = self._get("error")
            raise ConnectionAbortedError(f"another process of this job has stopped, {words}")

    def _stopped(self, error: BaseException) -> ConnectionAbortedError:
        """Return what has stopped the others, of which a call of torch.distributed found no more.

        Whoever stops says so before it leaves: without words it was killed.
        """
        try:
            self.check()
        except ConnectionAbortedError as said:
            return said
        except Exception:  # the store is gone, too: that of the first process
            pass
        return ConnectionAbortedError(
            f"process {self.rank} of {self.size} has lost the others, without a word of theirs "
            f"(killed?): {error}"
        )

    def told(self, make: Callable[[], Any]) -> Any:
        """Return what the first process makes, something that JSON has."""
        name = f"told {self._add(f'told to {self.rank}')}"
        if self.rank == 0:
            self._store.set(self._key(name), json.dumps(make()))
        self._wait(lambda: self._has(name), "the first process")
        return json.loads(self._get(name))

    def agree(self, about: dict[str, Any], bar: Any = None) -> None:
        """Wait until all have said the same; raises ValueError in the one that has not."""
        first, here = self.told(lambda: about), json.loads(json.dumps(about))
        for name in sorted({*first, *here}):
            if first.get(name) != here.get(name):
                raise ValueError(
                    f"all processes must be given the same job: {name} is {first.get(name)} in the "
                    f"first one, and {here.get(name)} in process {self.rank} of {self.size}"
                )
        self._meet(bar)

    def see(self, out: Path) -> None:
        """Refuse a folder, made by the first process, that the others do not see."""
        mark = out / MARK
        if self.rank == 0:
            mark.write_text(secrets.token_hex(8))
        try:
            token = self.told(lambda: mark.read_text())
            if not mark.exists() or mark.read_text() != token:
                raise ValueError(
                    f"out must be a folder that all processes see; process {self.rank} of "
                    f"{self.size} does not find in {out} what the first one has written there"
                )
            self._meet()
        finally:
            if self.rank == 0:
                mark.unlink(missing_ok=True)

    def share(
        self, items: Iterable[Item], *, disable: bool = False, **bar: Any
    ) -> Iterator[tuple[int, Item]]:
        """Yield (number, item) of those whose turn is this process's; return when all are done.

        Every process goes through all `items`, which must be the same, and takes some. Once in a
        job.

        Args:
            bar: of the progress that the first process shows, of the whole.
        """
        total = len(items) if isinstance(items, Sized) else None
        turn, number = self._turn(), -1
        with watch(total=total, disable=disable or self.rank > 0, **bar) as shown:
            for number, item in enumerate(items):
                if not number and self.size > 1:
                    self.agree({"the first batch": checksum([("batch", item)])})
                if number != turn:
                    continue
                yield number, item
                self.check()
                self._add("done")
                _show(shown, self._done())
                turn = self._turn()
            self.count = number + 1
            self.agree({"the number of batches": self.count}, shown)

    def each(
        self, make: Callable[[int, Item], Any], items: Iterable[Item], **bar: Any
    ) -> list[Any]:
        """Return ``make(number, item)`` of all, in order, in every process; JSON must have it."""
        for number, item in self.share(items, **bar):
            self._store.set(self._key(f"made {number}"), json.dumps(make(number, item)))
        return [json.loads(self._get(f"made {number}")) for number in range(self.count)]

    def _key(self, name: str) -> str:
        return f"jacfast: job {self._job}: {name}"

    def _has(self, name: str) -> bool:
        return self._store.check([self._key(name)])

    def _get(self, name: str) -> str:
        return bytes(self._store.get(self._key(name))).decode()

    def _add(self, name: str, number: int = 1) -> int:
        return self._store.add(self._key(name), number)

    def _meet(self, bar: Any = None) -> None:
        """Wait for all."""
        name = f"meeting {self._add(f'meetings of {self.rank}')}"
        self._add(name)
        self._wait(lambda: self._add(name, 0) == self.size, "the others", bar)
        if bar is not None:
            _show(bar, self._done())

    def _turn(self) -> int:
        return self._add("turns") - 1

    def _done(self) -> int:
        return self._add("done", 0)

    def _wait(self, ready: Callable[[], bool], whom: str, bar: Any = None) -> None:
        seen, since, said = -1, time.monotonic(), False
        while not ready():
            self.check()
            if (done := self._done()) != seen:
                seen, since = done, time.monotonic()
                if bar is not None:
                    _show(bar, done)
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


def _lost(error: BaseException) -> bool:
    """Say whether torch.distributed raised this because another process is gone, or silent."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, distributed.DistError) or "gloo/" in str(error)
    )


def launched() -> bool:
    """Say whether torchrun has started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def place() -> tuple[int, int]:
    """Return (rank, local rank) of this process: (0, 0) of one that is alone."""
    if launched():
        return int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    return 0, 0


@contextlib.contextmanager
def shared(out: Path, note: str, about: dict[str, Any]) -> Iterator[Team]:
    """Have the folder `out` for one job, as `claimed` does, and share it among its processes.

    Raises:
        ValueError: as `claimed`; or the processes have not been given the same job, or do not see
            the same folder. ConnectionAbortedError: another process has stopped. TimeoutError:
            nothing was heard of the others for half an hour.
    """
    team = Team.here()
    with team.together():
        team.agree(about)
        with claimed(out, note, about) if team.rank == 0 else contextlib.nullcontext():
            team.see(out)
            yield team


def _show(bar: Any, done: int) -> None:
    bar.update(done - bar.n)
