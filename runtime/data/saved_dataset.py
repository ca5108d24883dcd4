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


def saved_warning(folder: Path) -> str | None:
    """The warning that of a saved dataset with several splits only one is read."""
    splits = _read(folder / SPLITS).get("splits")
    if not isinstance(splits, list) or SPLIT not in splits or len(splits) < 2:
        return None
    others = ", ".join(sorted(str(split) for split in splits if split != SPLIT))
    return (
        f"SW744 {folder}: the train split was taken; left out: {others}. To read one: data.path={folder}/NAME"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
