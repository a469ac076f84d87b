"""Settings: what every hyper-parameter is called, its default and its range; JSON files and flags into them.

A config is JSON with the sections `model`, `data`, `train` and `eval`; what it doesn't name has the default
written here, which is the recipe of the authors' published checkpoints. `"extends": "other.json"` (relative
to the file) starts from another config and names only what differs. Flags override the JSON.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from utils.base.errors import UserError
from utils.config.messages import explain

SUPERVISED, WEAK = "supv_main_model", "weak_main_model"  # the authors' names


MAINS = {SUPERVISED: "supv_main.py", WEAK: "weak_main.py"}


# Where the two settings differ; everything else has one default, below.
_RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    SUPERVISED: {
        "model": {"alpha": 0.1, "gamma": 0.3, "beta": 0.4},
        "train": {"lr": 7e-4, "milestones": [10, 20, 30], "seed": 43, "snapshot_pref": "Exps/Supv/exp1/"},
    },
    WEAK: {
        "model": {"alpha": 0.2, "gamma": 0.5, "beta": 0.5},
        "train": {"lr": 6e-4, "milestones": [10, 20, 40], "seed": 666, "snapshot_pref": "Exps/WeaklySupv/exp1/"},
    },
}


# Bounds far above anything of use: a number that torch or HDF5 can't even take is named here, with its key.
Fraction = Annotated[float, Field(ge=0, le=1)]


PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]


Width = Annotated[int, Field(gt=0, le=2**14)]


Strength = Annotated[float, Field(ge=0, le=1e6)]


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


class _Settings(BaseModel):
    # Strict: a quoted number or a true in place of 1 is a mistake to hear about, not to guess at.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSettings(_Settings):
    """The network. The first seven keys are those of the authors' JSON files."""

    name: Literal["supv_main_model", "weak_main_model"]
    video_inputdim: Annotated[Width, Field(multiple_of=4)] = 512  # Dv: channels of a visual grid cell
    audio_inputdim: Width = 128  # Da: length of a segment's audio feature
    d_model: Annotated[Width, Field(multiple_of=4)] = 256  # width of everything after the attention
    alpha: Fraction  # strength of time-level suppression
    gamma: Strength  # strength of event-level suppression
    beta: Strength  # strength of the global visual gate in the attention
    categories: Width = 28  # C: event categories, background not counted
    # Ablations: parts of the network that can be left out, with their weights.
    self_attention: bool = True  # over the grid's cells; false: Y = X
    time_level: bool = True  # false: no segment gates, nothing is suppressed in time (the gate is 1 everywhere)
    event_level: bool = True  # false: no class activation sequence of a single modality, and what it multiplies or adds
    modalities: Literal["both", "audio", "visual"] = "both"  # of one only: the other's features are zero

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**_RECIPES.get(_hashable(values.get("name")), {}).get("model", {}), **values}
        return values


class GenerateSettings(_Settings):
    """Clips of a generated data set (see `dataset.synthetic`), made once if the data folder isn't there."""

    train: PositiveInt
    val: PositiveInt
    test: PositiveInt
    background_only: PositiveInt
    categories: Width
    grid: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = [7, 7]  # H, W
    visual_dim: Width = 512
    audio_dim: Width = 128
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class DataSettings(_Settings):
    root: FolderName = "data"  # the folder of the feature files
    # Where the features live during a run: `device` (GPU memory), `host` (main memory), `stream` (read in
    # shuffled blocks, for data larger than memory), `loader` (a worker DataLoader, as the authors do), or
    # `auto`: the first of device, host and stream that fits.
    features: Literal["auto", "device", "host", "stream", "loader"] = "auto"
    workers: Annotated[int, Field(ge=0, le=256)] = 2  # reading threads (`loader`: worker processes)
    generate: GenerateSettings | None = None  # demo configs only: generate the data set if it isn't there


class TrainSettings(_Settings):
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


class EvalSettings(_Settings):
    split: Literal["train", "val", "test"] = "test"
    test_batch_size: PositiveInt = 16
    # Weak only: what says where in a clip its event is, see model/prediction.py. `authors`: the event is everywhere.
    localize: Literal["authors", "gate", "activation", "background", "relative", "combined"] = "authors"
    # Weak only: segments whose gate is not above this are background; null with `gate`: chosen on training clips.
    gate_threshold: Fraction | None = None
    exclude_leaked: bool = False  # also report accuracy without clips whose video is in the training split


class Config(_Settings):
    """A whole config: what a run needs to know, besides where it runs."""

    model: ModelSettings
    data: DataSettings = DataSettings()
    train: TrainSettings
    eval: EvalSettings = EvalSettings()

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            return values
        recipe = _RECIPES.get(_hashable(values["model"].get("name")), {}).get("train", {})
        train = values.get("train", {})
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
        if self.model.name == WEAK:
            for key in ("gate_loss", "av_category_loss"):
                if getattr(self.train, key) != 1:
                    raise ValueError(f"'train.{key}' is {getattr(self.train, key)}: the weak network has no such loss")
        elif self.eval.gate_threshold is not None:
            raise ValueError(
                f"'eval.gate_threshold' is {self.eval.gate_threshold}: it is for the weak network ({WEAK})"
            )
        elif self.eval.localize != "authors":
            raise ValueError(f"'eval.localize' is {self.eval.localize!r}: it is for the weak network ({WEAK})")
        if self.eval.gate_threshold is not None and self.eval.localize not in ("authors", "gate"):
            raise ValueError(f"'eval.gate_threshold' is not for 'eval.localize' {self.eval.localize!r}; remove one")
        if self.eval.exclude_leaked and self.eval.split == "train":
            raise ValueError("'eval.exclude_leaked' would leave out every clip of the training split")
        by_gate = self.eval.localize == "gate" or self.eval.gate_threshold is not None
        if by_gate and not self.model.time_level:
            raise ValueError("'eval.localize' gate, 'eval.gate_threshold': without 'model.time_level' there is no gate")
        return self


def _hashable(name: Any) -> Any:
    return name if isinstance(name, str) else None


def model_settings(values: ModelSettings | dict[str, Any]) -> ModelSettings:
    """The `model` section of a config, validated. Raises UserError that names the key."""
    if isinstance(values, ModelSettings):
        return values
    try:
        return ModelSettings.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"model settings: {explain(error, ModelSettings)}") from error
