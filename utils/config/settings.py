"""Settings: what every hyper-parameter is called, its default and its range; JSON files and flags into them.

A config is JSON with the sections `model`, `data`, `train` and `eval`; what it doesn't name has the default
written here, which is the recipe of the authors' published checkpoints. `"extends": "other.json"` (relative
to the file) starts from another config and names only what differs. Flags override the JSON.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator
from pydantic.fields import FieldInfo

from dataset.files import GENERATED, LABEL_REGIMES
from model.settings import (
    NetworkSettings,
    PositiveInt,
    RuleName,
    Settings,
    Strength,
    Width,
    check_rule,
    settings_classes,
)  # fmt: skip
from model.validation import validated_settings
from utils.base.paths import project_path
from utils.config.keys import Key, declared

SUPERVISED, WEAK = "supv_main_model", "weak_main_model"  # the authors' names for the CMBS networks
MAINS = {"full": "supv_main.py", "weak": "weak_main.py"}  # by supervision


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


_FILE_NAME = AfterValidator(file_name)
FolderName = Annotated[str, _FILE_NAME]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class GenerateSettings(Settings):
    """Clips of a generated data set (see `dataset.synthetic`), made once if the data folder isn't there."""

    annotations: FolderName | None = None
    """AVE's `Annotations.txt`, with the three order files beside it: categories, event times and splits are AVE's, and
    `train`, `val`, `test` and `categories` stay unset; null: they are made up."""
    train: PositiveInt | None = None
    """Training clips."""
    val: PositiveInt | None = None
    """Validation clips."""
    test: PositiveInt | None = None
    """Test clips."""
    background_only: PositiveInt | None = None
    """Clips without an event, for weak training; null: 32, or AVE's 178 with `annotations`."""
    categories: Width | None = None
    """Categories, background not counted; as `model.categories`."""
    grid: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = Field([7, 7])
    """H and W of the visual grid; [1, 1]: features without a grid."""
    visual_dim: Width = 512
    """Channels of a visual grid cell."""
    audio_dim: Width = 128
    """Length of a segment's audio feature."""
    seed: Seed = 0
    """The same seed gives the same data."""

    @model_validator(mode="after")
    def _given_once(self) -> GenerateSettings:
        """Raise where the number of clips or categories is given neither here nor by the annotations, or by both."""
        for name in ("train", "val", "test", "categories"):
            given = getattr(self, name) is not None
            if self.annotations is None and not given:
                raise ValueError(f"{name!r} is missing; name it, or 'annotations' to generate AVE's own clips")
            if self.annotations is not None and given:
                raise ValueError(f"'annotations' says what {name!r} says; leave one of them out")
        return self


class DataSettings(Settings):
    """Where the data are, and how they are read."""

    root: Annotated[FolderName, Key(("--data_root",), may_differ="going on")] = "data"
    """Folder of the feature files."""
    placement: Annotated[Literal["auto", "device", "host", "stream", "loader"], Key(may_differ="always")] = "auto"
    """Which memory the features are in during a run: of the device (GPU), of the host, none (`stream`: read in shuffled
    blocks, for data larger than memory; `loader`: by a worker DataLoader, as the authors do), or `auto`: the first of
    device, host and stream that fits."""
    workers: Annotated[int, Field(ge=0, le=256), Key(may_differ="always")] = 2
    """Threads that read the features; with `loader`: worker processes."""
    label_regime: Literal[tuple(LABEL_REGIMES)] = "clips_with_background"
    """Weak supervision only: what training learns from. `clips_with_background`: labels of clips, background-only clips
    among them; `clips`: labels of clips, without these; `segment_shares`: the share of a clip's segments that carry
    each label, which tells how long its event lasts, background-only clips among them."""
    generate: Annotated[GenerateSettings | None, Key(may_differ="always")] = None
    """Clips to generate once if the data folder isn't there; null: the data are a user's own."""

    @property
    def folder(self) -> Path:
        """`root` as a path to open from here."""
        return project_path(self.root)

    @property
    def are_generated(self) -> bool:
        """Whether the clips are generated: as these settings say, or the folder."""
        return self.generate is not None or (self.folder / GENERATED).exists()


class TrainSettings(Settings):
    """How to train. An evaluation uses `seed`, `precision` and `snapshot_pref` of it."""

    n_epoch: Annotated[PositiveInt, Key(("--n_epoch",), may_differ="going on", training_only=True)] = 200
    """Epochs to train."""
    batch_size: Annotated[PositiveInt, Key(("-b", "--b", "--batch_size"), training_only=True)] = 64
    """Clips per training step; the last, shorter batch is kept."""
    lr: Annotated[float, Field(gt=0, le=1e3), Key(("--lr",), weak=6e-4, training_only=True)] = 7e-4
    """Learning rate of Adam."""
    milestones: Annotated[list[PositiveInt], Key(weak=[10, 20, 40], training_only=True)] = Field([10, 20, 30])
    """Epochs after which the learning rate is multiplied by `lr_decay`."""
    lr_decay: Annotated[float, Field(gt=0, le=1), Key(training_only=True)] = 0.5
    """What the learning rate is multiplied by after each milestone."""
    clip_gradient: Annotated[Annotated[float, Field(gt=0)] | None, Key(("--clip_gradient",), training_only=True)] = 0.5
    """Largest global gradient norm; null: no clipping."""
    weight_decay: Annotated[Strength, Key(("--wd", "--weight_decay"), training_only=True)] = 0.0
    """Adam's L2 penalty. Quirk: the authors' flag of this name is parsed and never used, hence 0."""
    loss_weights: Annotated[dict[str, Strength], Key(training_only=True)] = Field({})
    """Weights of the network's loss terms by their names; 0 leaves a term out. What isn't named has the network's own
    weight, mostly 1."""
    seed: Annotated[Seed, Key(("--seed",), weak=666)] = 43
    """Seed of every random generator."""
    precision: Annotated[Literal["float32", "float64", "bfloat16"], Key(("--precision",))] = "float32"
    """Numbers of the computation; float64 is the authors' arithmetic, bfloat16 the fastest."""
    compile: Annotated[bool, Key(may_differ="going on", training_only=True)] = False
    """Train through torch.compile: on a GPU with CUDA graphs; on a CPU the part on cells, by a C++ compiler."""
    snapshot_pref: Annotated[
        FolderName, Key(("--snapshot_pref",), may_differ="always", weak="Exps/WeaklySupv/exp1/")
    ] = "Exps/Supv/exp1/"
    """The run folder."""
    print_freq: Annotated[PositiveInt, Key(("--print_freq",), may_differ="always")] = 20
    """Steps between two TensorBoard points, and on a GPU between two checks that the loss is finite."""
    eval_freq: Annotated[PositiveInt, Key(("--eval_freq",), training_only=True)] = 1
    """Epochs between two evaluations."""
    save_every_minutes: Annotated[
        Annotated[float, Field(gt=0)] | None, Key(may_differ="always", training_only=True)
    ] = None
    """Also save within an epoch, this often; null: only after each epoch."""

    @property
    def folder(self) -> Path:
        """The run folder, `snapshot_pref`, as a path to open from here."""
        return project_path(self.snapshot_pref)


class EvalSettings(Settings):
    """How to evaluate, while training and after it."""

    split: Annotated[Literal["train", "val", "test"], Key(("--split",), may_differ="going on")] = "test"
    """Split to evaluate."""
    test_batch_size: Annotated[PositiveInt, Key(("--test_batch_size",), may_differ="always")] = 16
    """Clips per evaluation step."""
    localize: Annotated[RuleName, Key(("--localize",))] = "authors"
    """Weak supervision only: the localization rule, how a label per segment is read off the network (see
    `model/localization.py`); `authors` is the network's own."""
    threshold: float | None = None
    """Weak supervision only: segments whose score by the localization rule is not above it are background; null: the
    rule's own, or chosen on training clips."""
    exclude_leaked: Annotated[bool, Key(may_differ="going on")] = False
    """Also report the accuracy without clips whose video is in the training split."""


class Config(Settings):
    """A whole config: what a run needs to know, besides where it runs."""

    model: Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(validated_settings)]
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()

    @model_validator(mode="after")
    def _belong_together(self) -> Config:
        """Raise for settings that contradict each other, or that would have no effect."""
        generated = self.data.generate
        if generated is not None and generated.categories not in (None, self.model.categories):
            raise ValueError(
                f"data.generate.categories is {generated.categories} and model.categories {self.model.categories}: "
                f"set both to the same number"
            )
        for key, value, default in (
            ("eval.threshold", self.eval.threshold, None),
            ("eval.localize", self.eval.localize, "authors"),
            ("data.label_regime", self.data.label_regime, "clips_with_background"),
        ):
            if self.supervision == "full" and value != default:
                raise ValueError(
                    f"{key!r} is {value!r}: it is for a weak network, one that learns from clip labels ({WEAK})"
                )
        try:
            check_rule(self.eval.localize, self.eval.threshold)
        except ValueError as error:
            raise ValueError(f"'eval.threshold' and 'eval.localize' don't fit: {error}") from error
        if self.eval.exclude_leaked and self.eval.split == "train":
            raise ValueError("'eval.exclude_leaked' would leave out every clip of the training split")
        return self

    @model_validator(mode="after")
    def _complete(self) -> Config:
        """Give `train` the defaults of weak supervision, and name every term of the network's loss.

        So two configs of the same run are equal, whatever they leave to the defaults.
        """
        own, weights = self.model.loss_weights({}), self.train.loss_weights
        # A config that extends one of another network takes back its weights by naming them with 1.
        weights = {t: w for t, w in weights.items() if t in own or w != 1 or t not in _every_loss_term()}
        try:
            self.model.loss_weights(weights)
        except ValueError as error:
            raise ValueError(f"'train.loss_weights' doesn't fit the network: {error}") from error
        # A term of a part that the network is built without has the weight 0 in the loss, whatever stands here.
        changes: dict[str, Any] = {"loss_weights": {t: weights.get(t, own[t] or 1.0) for t in own}}
        if self.supervision == "weak":
            keys = {key.name: key.key.weak for key in declared(TrainSettings) if key.key.weak is not None}
            changes |= {name: value for name, value in keys.items() if name not in self.train.model_fields_set}
        return self.model_copy(update={"train": self.train.model_copy(update=changes)})

    @property
    def supervision(self) -> Literal["full", "weak"]:
        """Which labels the network learns from: those of segments, or of clips."""
        return self.model.supervision

    @property
    def label_regime(self) -> str | None:
        """What a weak network learns from, a name of `dataset.files.LABEL_REGIMES`; None for a supervised one."""
        return self.data.label_regime if self.supervision == "weak" else None


@functools.cache
def _every_loss_term() -> set[str]:
    return {term for kind in settings_classes().values() for term in kind.loss_terms}


def _is_path(field: FieldInfo) -> bool:
    options = [getattr(option, "__metadata__", ()) for option in get_args(field.annotation)]
    return any(_FILE_NAME in metadata for metadata in (field.metadata, *options))


KEYS = {key.name: key for key in declared(Config)}  # of `model` those that every network has
PATHS = {name for name, field, _ in KEYS.values() if _is_path(field)}


def declaration(name: str) -> Key:
    """How a key is declared; one without a declaration, such as a network's, has that of the key that holds it."""
    while name and name not in KEYS:
        name = name.rpartition(".")[0]
    return KEYS[name].key if name else Key()
