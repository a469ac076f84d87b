"""Frames of raw videos for the report: a strip a clip, one frame a segment, as a JPEG that stands in the page."""

from __future__ import annotations

import base64
import io
import mimetypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.files import VIDEOS
from utils.base.errors import UserError

MOST = 200  # strips in a page; each of them takes about 20 KB and half a second to decode
_PIXELS = 80  # height and width of a frame; the page shows it at about half of that
_QUALITY = 70


def strips(data_root: Path, ids: list[str | None], segments: int) -> tuple[list[dict[str, str]], str | None]:
    """Strips of the clips whose video is in `data_root`/videos, as ID.mp4 or with another ending.

    Args:
        ids: of the clips, the most important first: only the first `MOST` that have a video get a strip.

    Returns, for each clip, {"f": a JPEG as data: URI} or {}; and a sentence on what is missing, or None.
    """
    videos = _videos(data_root / VIDEOS, ids)
    if not videos:
        return [{} for _ in ids], None
    try:
        import dataset.extract.video  # here: its package av is needed by those who have videos, and by them alone
    except UserError as error:
        return [{} for _ in ids], f"Frames of {data_root / VIDEOS} are not shown: {error}"

    broken = []

    def strip(id: str) -> dict[str, str]:
        try:
            clip = dataset.extract.video.read_clip(videos[id], segments, threads=1)
        except dataset.extract.video.BrokenVideo as error:
            broken.append(str(error))
            return {}
        return {"f": _jpeg(clip.frames[clip.index[:, clip.index.shape[1] // 2]])}

    wanted = list(dict.fromkeys(id for id in ids if id in videos))
    shown = wanted[:MOST]
    with ThreadPoolExecutor() as pool:
        drawn = tqdm(pool.map(strip, shown), "frames", len(shown), leave=False, disable=None)
        made = dict(zip(shown, drawn, strict=True))
    sentences = []
    if len(wanted) > MOST:
        sentences.append(f"Frames are shown for {MOST} of the {len(wanted)} clips here that have a video.")
    if broken:
        sentences.append(f"{len(broken)} of the videos can't be read; the first: {min(broken)}")
    return [made.get(id, {}) for id in ids], " ".join(sentences) or None


def _videos(folder: Path, ids: list[str | None]) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    wanted = set(ids)
    files = (path for path in sorted(folder.iterdir()) if path.stem in wanted)
    return {path.stem: path for path in files if (mimetypes.guess_type(path.name)[0] or "").startswith("video/")}


def _jpeg(frames: np.ndarray) -> str:
    """Frames [T, H, W, 3] uint8 side by side as one JPEG, as a data: URI."""
    small = [np.asarray(Image.fromarray(frame).resize((_PIXELS, _PIXELS), Image.Resampling.BOX)) for frame in frames]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(small, axis=1)).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
