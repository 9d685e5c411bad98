"""Fails unless exactly what requirements.txt names is installed, and works with this Python."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def main() -> int | str:
    for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
        name, _, wanted = line.partition("#")[0].strip().partition("==")
        try:
            if name and version(name) != wanted:
                return f"{name} is {version(name)}, not {wanted}"
        except PackageNotFoundError:
            return f"{name} is missing"
    # Both have parts that are made for one version of Python.
    import helm_sdkpy
    import kubernetes_validate  # noqa: F401

    helm_sdkpy.get_version()
    return 0


if __name__ == "__main__":
    sys.exit(main())
