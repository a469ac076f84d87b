"""Making the next things while the caller works on earlier ones."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def ahead(jobs: Iterable[Callable[[], Item]], threads: int = 1, most: int = 1) -> Iterator[Item]:
    """What each job returns, in order, computed by `threads` threads while the caller works on earlier results.

    At most `most` results are being computed or wait to be taken. What a job raises is raised in its result's place.
    """
    jobs = iter(jobs)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque(pool.submit(job) for job in itertools.islice(jobs, most))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(job) for job in itertools.islice(jobs, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def one_ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    """The items of a generator, which a thread of its own makes one ahead of the caller."""
    made = ahead(itertools.repeat(functools.partial(next, items, _END)))
    with contextlib.closing(items), contextlib.closing(made):
        yield from itertools.takewhile(lambda item: item is not _END, made)
