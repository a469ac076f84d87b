"""Making the next items of an iterator while the caller works on earlier ones."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    """The items of a generator, made by a thread of its own while the caller works on earlier ones.

    One item is being made, or waits to be taken.
    """
    ready: queue.Queue = queue.Queue()
    room, stopped, end = threading.Semaphore(1), threading.Event(), object()

    def make() -> None:
        try:
            with contextlib.closing(items):
                item = None
                while item is not end:
                    item = None  # lets go of the item before: it may be large
                    room.acquire()
                    if stopped.is_set():
                        return
                    item = next(items, end)
                    ready.put((item, None))
        except BaseException as error:  # handed over: it is the caller's to raise
            ready.put((end, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            room.release()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join()
