"""The mains stand above everything: `lint-imports` holds the other walls, but knows packages only."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT

FILES = [path for folder in ("model", "dataset", "utils") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_the_mains(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not names & {"supv_main", "weak_main"}
