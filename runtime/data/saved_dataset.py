"""Folders that the package datasets writes with save_to_disk: which of their files hold the data."""

import json
from pathlib import Path
from typing import Any

STATE, SPLITS = "state.json", "dataset_dict.json"
SPLIT = "train"  # as for a dataset of the Hugging Face Hub


def find_saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a saved dataset, in its order, or the folder of its train split; None for others."""
    splits = _read(folder / SPLITS).get("splits")
    if isinstance(splits, list) and SPLIT in splits:
        return [folder / SPLIT]
    rows = _read(folder / STATE).get("_data_files")
    if not isinstance(rows, list):
        return None
    names = [row.get("filename") for row in rows if isinstance(row, dict)]
    return [folder / name for name in names if isinstance(name, str)]


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
