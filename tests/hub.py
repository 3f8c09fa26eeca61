"""The Hub's cache as its own downloads leave it, for tests without a network."""

import json
from pathlib import Path

COMMIT = "c" * 40


def offline(cache: Path) -> dict[str, str]:
    return {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def snapshot(cache: Path, repository: str, commit: str = COMMIT, kind: str = "model") -> Path:
    """The folder of a revision; whoever fills it calls `listed` in the end."""
    folder = cache / f"{kind}s--{repository.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def listed(snapshot: Path) -> Path:
    """Note all files that are in it now as those of the revision, as a whole download does."""
    files = {str(path.relative_to(snapshot)): path.stat().st_size for path in sorted(snapshot.rglob("*")) if path.is_file()}
    notes = snapshot.parents[1] / "trees" / f"{snapshot.name}.json"
    notes.parent.mkdir(exist_ok=True)
    entries = {name: {"size": size, "blob_id": "0" * 40} for name, size in files.items()}
    notes.write_text(json.dumps({"format_version": 1, "files": entries}))
    return snapshot


def absent(snapshot: Path, *names: str) -> Path:
    """Note that the revision has no such files, as whoever asked for one does."""
    folder = snapshot.parents[1] / ".no_exist" / snapshot.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return snapshot
