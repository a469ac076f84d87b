"""Rows of the benchmark for `dataset.extract`: what making the features of a clip of 10 seconds costs, part by part.

The clip is generated and the weights are random, which changes no time. The roofline of a row is the operations of its
convolutions and linear layers at the machine's best rate: that of a large matrix product or of one of VGG-19's own
convolutions, whichever is faster, timed alone in turn with the row's steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import timer

from dataset import files
from utils.base.devices import choose_device
from utils.base.errors import UserError
from utils.base.memory import keep_freed_memory
from utils.benchmark.measure import peak_host_memory
from utils.benchmark.roofline import count, seconds_of
from utils.benchmark.rows import Row

if TYPE_CHECKING:  # they need the packages of requirements-video.txt, which the other rows do without
    from dataset.extract.features import FeatureExtractor
    from dataset.extract.video import Clip

PREFIX = "extract/"
PARTS = ("decode", "vgg19/float32", "vgg19/bfloat16", "vggish", "write", "together/float32", "together/bfloat16")
ROOFLINE = "of convolutions and linear layers at the best rate of a matrix product and a convolution, timed alone"
_DECODERS = 2  # as `dataset.extract` has by default


@dataclass(frozen=True)
class Made:
    """The generated video: like AVE's, 10 s of H.264 with stereo sound."""

    seconds: int = 10
    rate: int = 30  # frames a second
    size: tuple[int, int] = (640, 360)


VIDEO = Made()


@dataclass(frozen=True)
class ExtractionTask:
    """What a measuring process needs to know: see `utils.benchmark.measure.Task`."""

    name: str
    device: str
    repeats: int
    seconds: float
    authors = False

    def prepare(self) -> None:
        """Nothing to do: `run` makes the video, in a second."""

    def run(self) -> Row:
        """Measure the row in this process."""
        device, _ = choose_device("cpu" if self.device == "cpu" else None)
        keep_freed_memory()
        part, _, precision = self.name.removeprefix(PREFIX).partition("/")
        row = Row(self.name, clips=1, bound=ROOFLINE)
        with tempfile.TemporaryDirectory() as folder:
            steps = _Steps(Path(folder), precision or "float32", device)
            self._time(row, steps, part, device)
            if part == "vgg19" and precision != "float32":
                row.note = f"features differ from float32's by {steps.difference():.2g} of their norm (random weights)"
        row.seconds, row.fastest, row.slowest = median(row.times), min(row.times), max(row.times)
        row.steps, row.host_bytes = len(row.times), peak_host_memory()
        row.device_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        row.note = "; ".join([f"{3600 / row.seconds:.0f} clips an hour", *filter(None, [row.note])])
        return row

    def _time(self, row: Row, steps: _Steps, part: str, device: torch.device) -> None:
        """Time a part's steps and, in turn with them, the matrix product of the roofline."""
        flops, dtype = steps.flops(part), steps.dtype if part != "vggish" else torch.float32
        best = BestRate(device, dtype)
        if part == "together":  # decoding goes on between its steps: nothing else may
            best.round()
            row.times = steps.together(self.repeats)
            best.round()
        else:
            step = getattr(steps, part)
            start = timer()
            while len(row.times) < self.repeats and (not row.times or timer() - start < self.seconds):
                best.round()
                before = timer()
                step()
                row.times.append(timer() - before)
        if flops:
            row.rate = row.fastest_rate = best.rate
            row.flops, row.roofline = flops, flops / row.rate


class BestRate:
    """The operations a second of a square matrix product and of a convolution as VGG-19's, measured in rounds."""

    SIDE, CHANNELS, GRID, FRAMES = 2048, 256, 56, 4

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        left, right = torch.rand(2, self.SIDE, self.SIDE, device=device).to(dtype)
        image = (
            torch.rand(self.FRAMES, self.GRID, self.GRID, self.CHANNELS, device=device).to(dtype).permute(0, 3, 1, 2)
        )
        kernel = torch.rand(self.CHANNELS, 3, 3, self.CHANNELS, device=device).to(dtype).permute(0, 3, 1, 2)
        self._measured: list[tuple[int, Callable[[], object], list[float]]] = [
            (2 * self.SIDE**3, lambda: left @ right, []),
            (2 * image.numel() * self.CHANNELS * 9, lambda: nn.functional.conv2d(image, kernel, padding=1), []),
        ]

    def round(self) -> None:
        """Time the matrix product and the convolution once."""
        with torch.inference_mode():
            for flops, call, rates in self._measured:
                rates.append(flops / seconds_of(call))

    @property
    def rate(self) -> float:
        """The median of the rounds of the faster of the two, in flop/s."""
        return max(median(rates) for _, _, rates in self._measured)


class _Steps:
    """The parts of making a clip's features, each of which can be called alone."""

    def __init__(self, folder: Path, precision: str, device: torch.device) -> None:
        from dataset.extract.features import DTYPES, FeatureExtractor, Features, Recipe
        from dataset.extract.flags import GENERATED
        from dataset.extract.store import ClipStore
        from dataset.extract.video import FRAMES_A_SECOND, read_clip

        self.folder, self.video = folder, folder / "clip.mp4"
        make_video(self.video, VIDEO)
        self.recipe = Recipe(visual_weights=GENERATED, vggish=GENERATED, precision=precision)
        self.extractor: FeatureExtractor = FeatureExtractor(self.recipe, device)
        self.dtype = DTYPES[precision]
        self.store = ClipStore(folder, VIDEO.seconds, self.recipe)
        self.decode: Callable[[], Clip] = lambda: read_clip(self.video, VIDEO.seconds, prepare=self.extractor.prepare)
        self.clip = self.decode()
        first_second = self.clip._replace(frames=self.clip.frames[:FRAMES_A_SECOND], index=self.clip.index[:1])
        of_a_second = self.extractor(first_second)  # which also warms up the networks
        self.features = Features(*(np.repeat(array, VIDEO.seconds, axis=0) for array in of_a_second))

    def vgg19(self) -> None:
        self.extractor.visual_of(self.clip)

    def vggish(self) -> None:
        self.extractor.audio_of(self.clip)

    def write(self) -> None:
        """Keep a clip's features, and write them into the data folder's files."""
        from dataset.extract.data_folder import write_features_of

        self.store.save("clip", self.video, self.features, [], self.extractor.made_with)
        write_features_of(["clip"], self.store, (self.folder / files.VISUAL, self.folder / files.AUDIO))

    def together(self, clips: int) -> list[float]:
        """Seconds of each of `clips` clips after the first, decoded beside the networks and written."""
        from dataset.extract.data_folder import decoded_ahead

        times, last = [], timer()
        videos = {str(number): self.video for number in range(clips + 1)}
        for id, clip in decoded_ahead(videos, VIDEO.seconds, _DECODERS, self.extractor.prepare):
            self.store.save(id, self.video, self.extractor(clip), clip.notes, self.extractor.made_with)
            now = timer()
            times.append(now - last)
            last = now
        return times[1:]

    def flops(self, part: str) -> int:
        """Operations of the convolutions and linear layers of a part."""
        from dataset.extract import vgg19, vggish

        visual, audio = part in ("vgg19", "together"), part in ("vggish", "together")
        with torch.device("meta"), torch.no_grad():
            frames = torch.empty(len(self.clip.frames), 3, *self.clip.frames.shape[1:3])
            examples = torch.empty(VIDEO.seconds, vggish.EXAMPLE, vggish.BANDS)
            of_visual = count(lambda: vgg19.layers()(frames)).flops if visual else 0
            return of_visual + (count(lambda: vggish.VGGish()(examples)).flops if audio else 0)

    def difference(self) -> float:
        """Norm of what the precision changes in some frames' features, over their norm."""
        from dataset.extract.vgg19 import VGG19

        frames = self.clip.frames[:: len(self.clip.frames) // 4]
        exact = VGG19(self.recipe.visual_weights, self.extractor.device)(frames)
        return float((self.extractor.visual(frames) - exact).norm() / exact.norm())


def chosen(patterns: list[str], device: str, repeats: int, seconds: float) -> list[ExtractionTask]:
    """The tasks of the rows that patterns choose. Raises UserError for a pattern without any."""
    names = [PREFIX + part for part in PARTS]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"--rows {pattern}: chooses none of the rows {', '.join(names)}")
    picked = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return [ExtractionTask(name, device, repeats, seconds) for name in picked]


def make_video(path: Path, made: Made) -> None:
    """Encode a video of moving waves and a rising tone."""
    import av

    width, height = made.size
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=made.rate, options={"preset": "veryfast"})
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="stereo")
        for number in range(made.seconds * made.rate):
            waves = [np.sin((x * (channel + 1) + y * 2) / 23 + number / 5) for channel in range(3)]
            pixels = (127 + 120 * np.stack(waves, 2)).astype(np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(pictures.encode())
        t = np.arange(made.seconds * 48000) / 48000
        tone = np.tile(0.3 * np.sin(2 * np.pi * (200 + 100 * t) * t), (2, 1)).astype(np.float32)
        for first in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, first : first + 1024]), "fltp", "stereo")
            frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), first
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
