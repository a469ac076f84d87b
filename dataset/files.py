"""The contract of an AVE data folder: file names, keys and shapes.

| file | key | shape | what |
| --- | --- | --- | --- |
| visual_feature.h5 | avadataset | [N, T, H, W, Dv], or [N, T, Dv] | VGG-19 block5_pool, float64, float32 or float16 |
| audio_feature.h5 | avadataset | [N, T, Da] | VGGish embedding |
| labels.h5 | avadataset | [N, T, C+1] | segment labels, one-hot, the last column is background |
| mil_labels.h5 | avadataset | [N, C+1] | clip labels, one-hot |
| {train,val,test}_order.h5 | order | [n] | rows of the split |
| {visual_feature,audio_feature}_noisy.h5 | avadataset | like the above | the background-only clips |
| labels_noisy.h5 | avadataset | [n, C+1] | their clip labels, all background |
| Annotations.txt | | N lines | category&id&quality&start&end, line i describes row i |
| categories.txt | | C lines | optional: the category of index i in line i; else they are numbered by first appearance |

N clips, T segments of one second, an H x W grid, C categories. Names, keys and meaning are the authors'.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from utils.base.errors import UserError

KEY = "avadataset"
ORDER_KEY = "order"

VISUAL = "visual_feature.h5"
AUDIO = "audio_feature.h5"
LABELS = "labels.h5"
CLIP_LABELS = "mil_labels.h5"
NOISY_VISUAL = "visual_feature_noisy.h5"
NOISY_AUDIO = "audio_feature_noisy.h5"
NOISY_LABELS = "labels_noisy.h5"
ANNOTATIONS = "Annotations.txt"
CATEGORIES = "categories.txt"
VIDEOS = "videos"  # folder of the raw videos, in the data folder
MADE_WITH = "features.json"  # what made the features, where that is known (see dataset.made_with)
GENERATED = "generated.json"  # only in a folder of generated data: says so, and with which settings

VISUALS = (VISUAL, NOISY_VISUAL)
FEATURES = (VISUAL, AUDIO, NOISY_VISUAL, NOISY_AUDIO)
SPLITS = ("train", "val", "test")
ORDERS = tuple(f"{split}_order.h5" for split in SPLITS)
BACKGROUND_ONLY = (NOISY_VISUAL, NOISY_AUDIO, NOISY_LABELS)
WEAK_FILES = (CLIP_LABELS, *BACKGROUND_ONLY)


class LabelRegime(NamedTuple):
    """What a weakly supervised training learns from: in words, for results, and which of WEAK_FILES it reads."""

    words: str
    reads: tuple[str, ...]


# "Weakly supervised" is several tasks in this field. What `data.label_regime` may say:
LABEL_REGIMES = {
    # AVEL, CMRAN, CMBS
    "clips_with_background": LabelRegime("clip labels with background-only clips", WEAK_FILES),
    # CPSP, VGGSound-AVEL
    "clips": LabelRegime("clip labels without background-only clips", (CLIP_LABELS,)),
    # PSP
    "segment_shares": LabelRegime(
        "the shares of each clip's segments, which tell how long its event lasts, with background-only clips",
        BACKGROUND_ONLY,
    ),
}
TEXTS = (ANNOTATIONS, CATEGORIES)
EVERY_FILE = (VISUAL, AUDIO, LABELS, *TEXTS, *ORDERS, *WEAK_FILES)

NO_BACKGROUND_ONLY = (
    "no such file, and weak training learns from background-only clips too; get AVE's with `python -m dataset.download "
    "--weak`, or train without such clips, with --set data.label_regime=clips"
)
WHY_WEB_PAGE = (
    "not the file itself (Google Drive sends such a page when the file's download quota is used up or it is "
    "not shared any more)"
)
HOW_TO_GET_DATA = (
    "get the AVE files with `python -m dataset.download`, "
    "or try the demo on generated data: `bash supv_train.sh --config configs/demo.json`"
)

OTHER_DATA = "the files belong to different data sets; put the files of one data set together"

# Files whose dimensions count the same must agree on it.
_DIMENSIONS = {
    VISUAL: ("clips", "segments a clip", "grid rows", "grid columns", "visual features"),
    NOISY_VISUAL: ("background-only clips", "segments a clip", "grid rows", "grid columns", "visual features"),
    AUDIO: ("clips", "segments a clip", "audio features"),
    NOISY_AUDIO: ("background-only clips", "segments a clip", "audio features"),
    LABELS: ("clips", "segments a clip", "label columns"),
    CLIP_LABELS: ("clips", "label columns"),
    NOISY_LABELS: ("background-only clips", "label columns"),
}


def require_folder(root: str | os.PathLike) -> None:
    """Raise UserError unless there is a data folder `root` that can be read."""
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; {HOW_TO_GET_DATA}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"{root}: you have no permission to read this folder; change its permissions")


def in_words(label_regime: str) -> str:
    """What a weakly supervised network learned from; the name itself where a later version gave it."""
    known = LABEL_REGIMES.get(label_regime)
    return known.words if known else label_regime


def read_with(label_regime: str | None) -> tuple[str, ...]:
    """Those of EVERY_FILE that a run reads: by its label regime, or under full supervision (None)."""
    weak = LABEL_REGIMES[label_regime].reads if label_regime else ()
    return tuple(name for name in EVERY_FILE if name in weak or name not in WEAK_FILES)


def order_file(split: str) -> str:
    """Name of the file that lists the rows of a split. Raises UserError for an unknown split."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return f"{split}_order.h5"


def dimensions(name: str) -> tuple[str, ...]:
    """What each dimension of the data-folder file `name` counts, e.g. ("clips", "segments", ...)."""
    return ("rows",) if name.endswith("_order.h5") else _DIMENSIONS[name]


def key_of(name: str) -> str:
    """The key under which the data-folder file `name` keeps its array."""
    return ORDER_KEY if name.endswith("_order.h5") else KEY
