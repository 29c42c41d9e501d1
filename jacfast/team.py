"""The processes that share a job.

Whoever is free takes the next item, so a slow process holds up nobody; and what stops one stops
all, in words.
"""

import contextlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from jacfast import meeting
from jacfast.meeting import Meeting, show
from jacfast.progress import watch
from jacfast.runs import checksum, claimed

Item = TypeVar("Item")
MARK = ".team"  # what the first process writes, and the others must see


class Team(Meeting):
    """A meeting with a job: items of which each process takes some."""

    count = 0  # of the items of `share`, once it is through

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
        patience = timedelta(seconds=meeting.PATIENCE)
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
                show(shown, self._done())
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

    def _turn(self) -> int:
        return self._add("turns") - 1


def _lost(error: BaseException) -> bool:
    """Say whether torch.distributed raised this because another process is gone, or silent."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, distributed.DistError) or "gloo/" in str(error)
    )


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
