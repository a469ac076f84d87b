"""What an authors' checkpoint format is, and how a network is read from it and written in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

PREFIX = "module."  # nn.DataParallel's, before every key of a released checkpoint


class Format(NamedTuple):
    """The authors' names of one network's tensors, by the beginnings of their keys.

    used: authors' beginning -> ours, together for every tensor of our network.
    unused: authors' beginning, of tensors that their network never uses -> the used one whose tensors have the same
        names and shapes.
    unused_shapes: authors' key, of tensors never used that are like no used one -> its shape, at the authors' sizes.
    convolutions: those of `used` whose weights are a 1x1 convolution's there, and a linear layer's, their equal, here.
    files: patterns of the names that released files go by.
    """

    used: Mapping[str, str]
    unused: Mapping[str, str]
    unused_shapes: Mapping[str, tuple[int, ...]] = {}
    convolutions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def load(self, network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
        """Load an authors' state_dict; see `model.official.load_official`."""
        theirs = {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items()}
        used, unused = self._shapes(network)
        if problems := misfits(theirs, used, unused):
            raise ValueError(
                f"not a checkpoint of the authors' {type(network).__name__} with these settings; tensors {problems}"
            )
        ours = network.state_dict()
        network.load_state_dict(
            {name: theirs[key].reshape(ours[name].shape) for key, name in self._names(network).items()}
        )

    def export(self, network: nn.Module) -> dict[str, Tensor]:
        """The authors' state_dict of a network; see `model.official.to_official`."""
        ours = network.state_dict()
        used, unused = self._shapes(network)
        dtype = next(network.parameters()).dtype
        names = self._names(network)
        exported = {key: ours[name].detach().cpu().reshape(used[key]).clone() for key, name in names.items()}
        for key, shape in unused.items():
            is_norm_weight = re.search(r"norm[^.]*\.weight$", key) is not None
            exported[key] = torch.full(shape, 1.0 if is_norm_weight else 0.0, dtype=dtype)
        return {PREFIX + key: tensor for key, tensor in exported.items()}

    def _names(self, network: nn.Module) -> dict[str, str]:
        """Authors' key -> our key, for every tensor of our network. Raises ValueError for one without some part."""
        ours = network.state_dict()
        absent = [part for part in self.used.values() if not any(name.startswith(part) for name in ours)]
        if absent:
            raise ValueError(
                f"the authors' format is that of their whole network, and these settings leave out "
                f"{absent[0].rstrip('.')}; take out what switches it off"
            )
        # The longest of our beginnings decides: "audio_relation.attention." before "audio_relation.".
        by_ours = sorted(((part, theirs) for theirs, part in self.used.items()), key=lambda pair: -len(pair[0]))
        names = {}
        for name in ours:
            part, theirs = next(pair for pair in by_ours if name.startswith(pair[0]))
            names[theirs + name.removeprefix(part)] = name
        return names

    def _shapes(self, network: nn.Module) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
        """Shapes of the authors' tensors for a network of these sizes: those it uses, and those it never uses."""
        ours = network.state_dict()
        used = {key: ours[name].shape for key, name in self._names(network).items()}
        for key, shape in used.items():
            if key.startswith(self.convolutions):
                used[key] = torch.Size((*shape, 1))
        unused = {key: torch.Size(shape) for key, shape in self.unused_shapes.items()}
        for template, like in self.unused.items():
            for key, shape in used.items():
                if key.startswith(like) and not key.startswith(f"{like}affine"):
                    unused.setdefault(template + key.removeprefix(like), shape)
        return used, unused


def misfits(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], optional: Mapping[str, torch.Size] | None = None
) -> str:
    """Every tensor that is missing, extra or misshapen, in words; "" where all have the shapes that they should have.

    Args:
        optional: shapes of tensors that may be missing.
    """
    known = {**shapes, **(optional or {})}
    found = {
        "missing": sorted(shapes.keys() - tensors.keys()),
        "not known": sorted(tensors.keys() - known.keys()),
        "of another shape": [
            f"{name} is {list(tensor.shape)} and should be {list(known[name])}"
            for name, tensor in tensors.items()
            if name in known and tensor.shape != known[name]
        ],
    }
    return "; ".join(f"{title}: {', '.join(names)}" for title, names in found.items() if names)
