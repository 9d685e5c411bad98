"""Charts with a fault, to show to the checks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chart


@contextmanager
def broken_copy(file: str, right: str, wrong: str) -> Iterator[Path]:
    """A copy of the chart in which one text of one file is another."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "chart"
        shutil.copytree(chart.CHART, copy)
        text = (copy / file).read_text()
        assert right in text, f"{file} has no {right!r}"
        (copy / file).write_text(text.replace(right, wrong))
        yield copy
