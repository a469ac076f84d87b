"""A run's data, where its config describes clips to generate."""

from __future__ import annotations

from dataset.synthetic import generate
from utils.base.paths import project_path
from utils.config.settings import DataSettings


def generate_once(settings: DataSettings) -> None:
    """Generate the data set that a config describes, unless it is there already."""
    if settings.generate is None:
        return
    given = settings.generate.model_dump(exclude_none=True)
    if "annotations" in given:
        given["annotations"] = project_path(given["annotations"])
    generate.generate(settings.folder, generate.Settings(**given))
