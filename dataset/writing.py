"""Writing a data folder: a working folder of one's own, features clip by clip."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from dataset import files
from utils.base.atomic import private_folder
from utils.base.locks import held


@contextlib.contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder in the data folder `out`, and remove it in the end; no other run may write to `out` then.

    Raises UserError while another run works there.
    """
    busy = f"{out}: another run is writing there; wait until it ends"
    with held(out / ".lock", busy), private_folder(out / "generating") as part:
        yield part


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a small file of the data folder."""
    with h5py.File(path, "w") as file:
        file.create_dataset(files.key_of(path.name), data=array)


def write_features(
    paths: tuple[Path, Path],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: str,
    clip: Callable[[int], tuple[np.ndarray, np.ndarray]],
    threads: int,
    bar: tqdm,
) -> None:
    """Write a visual and an audio feature file, contiguous and uncompressed like the authors'.

    Row i of the two is `clip(i)`, computed in `threads` threads with few clips in memory at a time;
    `bar` advances by one a clip.
    """
    with (
        h5py.File(paths[0], "w") as visual_file,
        h5py.File(paths[1], "w") as audio_file,
        ThreadPoolExecutor(threads) as pool,
    ):
        visual = visual_file.create_dataset(files.KEY, shapes[0], dtype)
        audio = audio_file.create_dataset(files.KEY, shapes[1], dtype)
        for row, features in enumerate(_in_order(pool, clip, shapes[0][0], ahead=4 * threads)):
            visual[row], audio[row] = features
            bar.update()


def _in_order(pool: ThreadPoolExecutor, clip: Callable, clips: int, ahead: int) -> Iterator[tuple]:
    """`clip(0)`, `clip(1)`, ..., computed by the pool at most `ahead` clips before they are taken."""
    waiting = deque()
    try:
        for row in range(clips):
            waiting.append(pool.submit(clip, row))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
