"""The form of a data set: the names of its table's columns and of its files' parts, and how its sizes are read.

A preset is what differs from the general form. Every field is a flag of the command, which goes before the preset.
"""

from __future__ import annotations

import dataclasses

from dataset.labels import SEGMENTS


@dataclasses.dataclass(frozen=True)
class Form:
    """What is known of a data set before its files are read.

    Attributes:
        id, category, split, start, end: columns of the table. `split` isn't read where the table is a folder of a file
            a split. `start` and `end`, in seconds, are None where label files say which segments the event fills.
        visual_key, audio_key, labels_key: the part of a file that holds several; None: the file's only array.
        segments: T; None: that of the first clip.
        fit_audio: whether audio of another length is taken: the last segment repeated, or cut. Else a clip of fewer
            segments is left out.
    """

    id: str = "id"
    category: str = "category"
    split: str = "split"
    start: str | None = None
    end: str | None = None
    visual_key: str | None = None
    audio_key: str | None = None
    labels_key: str | None = None
    segments: int | None = None
    fit_audio: bool = True


GENERAL = Form()

PRESETS = {
    "ave-pm": Form(
        id="sample_id",
        category="label",
        start="onset",
        end="offset",
        visual_key="video_features",
        audio_key="audio_features",
        labels_key="onehot_labels",
        segments=SEGMENTS,
        fit_audio=False,
    ),
    "vggsound-avel": Form(id="video_id", segments=SEGMENTS),
}
