"""Settings: what every hyper-parameter is called, its default and its range; JSON files and flags into them.

A config is JSON with the sections `model`, `data`, `train` and `eval`; what it doesn't name has the default
written here, which is the recipe of the authors' published checkpoints. `"extends": "other.json"` (relative
to the file) starts from another config and names only what differs. Flags override the JSON.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from model import NETWORKS, build_loss, validated_settings
from model.localization import RULES, check_rule
from model.settings import NetworkSettings, PositiveInt, Settings, Strength, Width

SUPERVISED, WEAK = "supv_main_model", "weak_main_model"  # the authors' names for the CMBS networks
MAINS = {"full": "supv_main.py", "weak": "weak_main.py"}  # by supervision

# Where the recipes of the two supervisions differ; everything else has one default, below.
_TRAIN: dict[str, dict[str, Any]] = {
    "full": {"lr": 7e-4, "milestones": [10, 20, 30], "seed": 43, "snapshot_pref": "Exps/Supv/exp1/"},
    "weak": {"lr": 6e-4, "milestones": [10, 20, 40], "seed": 666, "snapshot_pref": "Exps/WeaklySupv/exp1/"},
}


def file_name(name: str) -> str:
    """`name`, where a file or folder can have it; else raises ValueError that says why not."""
    if not name:
        raise ValueError("is not a file name: it is empty")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError("is not a file name: it holds half a character") from None
    if "\0" in name:
        raise ValueError("is not a file name: it holds a zero character")
    if len(os.fsencode(name)) > 4000 or any(len(os.fsencode(part)) > 255 for part in Path(name).parts):
        raise ValueError("is not a file name: it is too long")
    return name


FolderName = Annotated[str, AfterValidator(file_name)]


class GenerateSettings(Settings):
    """Clips of a generated data set (see `dataset.synthetic`), made once if the data folder isn't there."""

    train: PositiveInt
    val: PositiveInt
    test: PositiveInt
    background_only: PositiveInt
    categories: Width
    grid: list[PositiveInt] = Field([7, 7], min_length=2, max_length=2)  # H, W
    visual_dim: Width = 512
    audio_dim: Width = 128
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class DataSettings(Settings):
    root: FolderName = "data"  # the folder of the feature files
    # Where the features live during a run: `device` (GPU memory), `host` (main memory), `stream` (read in
    # shuffled blocks, for data larger than memory), `loader` (a worker DataLoader, as the authors do), or
    # `auto`: the first of device, host and stream that fits.
    features: Literal["auto", "device", "host", "stream", "loader"] = "auto"
    workers: Annotated[int, Field(ge=0, le=256)] = 2  # reading threads (`loader`: worker processes)
    generate: GenerateSettings | None = None  # demo configs only: generate the data set if it isn't there


class TrainSettings(Settings):
    n_epoch: PositiveInt = 200
    batch_size: PositiveInt = 64  # clips a step; the last, shorter batch is kept
    lr: Annotated[float, Field(gt=0, le=1e3)]  # of Adam
    milestones: list[PositiveInt]  # epochs after which the learning rate is multiplied by lr_decay
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    clip_gradient: Annotated[float, Field(gt=0)] | None = 0.5  # largest global gradient norm; null: no clipping
    # Adam's L2 penalty. Quirk: the authors' flag of this name is parsed and never used, hence 0.
    weight_decay: Strength = 0.0
    # Supervised only: weights of the two auxiliary losses in the total; 0 leaves one out.
    gate_loss: Strength = 1.0
    av_category_loss: Strength = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: Literal["float32", "float64", "bfloat16"] = "float32"  # float64 is the authors' arithmetic
    compile: bool = False  # train through torch.compile: on a GPU CUDA graphs; on a CPU it is slower, not faster
    snapshot_pref: FolderName  # the run folder
    print_freq: PositiveInt = 20  # steps between two looks at the loss on a GPU, and between TensorBoard points
    eval_freq: PositiveInt = 1  # epochs between two evaluations
    save_every_minutes: Annotated[float, Field(gt=0)] | None = None  # also save within an epoch; null: only after it
    skip_nonfinite: bool = False  # leave out a step whose loss isn't finite instead of stopping

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of loss terms that differ from 1, by the terms' names."""
        weights = {"gate": self.gate_loss, "av_category": self.av_category_loss}
        return {term: weight for term, weight in weights.items() if weight != 1}


class EvalSettings(Settings):
    split: Literal["train", "val", "test"] = "test"
    test_batch_size: PositiveInt = 16
    # Weak only: what says where in a clip its event is, see model/localization.py. `authors`: the network's own rule.
    localize: Literal[tuple(RULES)] = "authors"
    # Weak only: segments whose score by that rule is not above this are background; null: the rule's own, or chosen on
    # training clips.
    threshold: float | None = None
    exclude_leaked: bool = False  # also report accuracy without clips whose video is in the training split


class Config(Settings):
    """A whole config: what a run needs to know, besides where it runs."""

    model: Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(validated_settings)]
    data: DataSettings = DataSettings()
    train: TrainSettings
    eval: EvalSettings = EvalSettings()

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        model, train = values.get("model"), values.get("train", {})
        name = model.get("name") if isinstance(model, dict) else getattr(model, "name", None)
        recipe = _TRAIN[NETWORKS[name].supervision] if isinstance(name, str) and name in NETWORKS else {}
        return {**values, "train": {**recipe, **train}} if isinstance(train, dict) else values

    @model_validator(mode="after")
    def _belong_together(self) -> Config:
        """Raise for settings that contradict each other, or whose effect somebody wanted and would not get."""
        generated = self.data.generate
        if generated is not None and generated.categories != self.model.categories:
            raise ValueError(
                f"data.generate.categories is {generated.categories} and model.categories {self.model.categories}: "
                f"set both to the same number"
            )
        for key, value in (("threshold", self.eval.threshold), ("localize", self.eval.localize)):
            if self.supervision == "full" and value not in (None, "authors"):
                raise ValueError(
                    f"'eval.{key}' is {value!r}: it is for a weak network, one that learns from clip labels ({WEAK})"
                )
        try:
            check_rule(self.eval.localize, self.eval.threshold)
        except ValueError as error:
            raise ValueError(f"'eval.threshold' and 'eval.localize' don't fit: {error}") from error
        for term, weight in self.train.loss_weights.items():
            try:
                build_loss(self.model, {term: weight})
            except ValueError as error:
                raise ValueError(f"'train.{term}_loss' is {weight}: there is no such loss; {error}") from error
        if self.eval.exclude_leaked and self.eval.split == "train":
            raise ValueError("'eval.exclude_leaked' would leave out every clip of the training split")
        return self

    @property
    def supervision(self) -> Literal["full", "weak"]:
        """Which labels the network learns from: those of segments, or of clips."""
        return NETWORKS[self.model.name].supervision
