"""Pinned revisions of the Hugging Face Hub: fetched into its own cache, and believed only when whole. Knows no model and no rows."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from buildsys.errors import BuildError

Kind = Literal["model", "dataset"]
IsAbsent = Callable[[str], bool]

_OFFLINE = "unset HF_HUB_OFFLINE, check the network, or download it once with 'hf download'"
_SHOWN = 5  # files that an error names


def snapshot(
    kind: Kind, repository: str, revision: str, patterns: Sequence[str], unproven: Callable[[Path, IsAbsent], list[str]] | None = None
) -> Path:
    """The folder of a revision, with all of its files that match.

    unproven  (folder, what the Hub's cache remembers to be in no such revision) -> files that are not there although they may belong to
              it. It is asked where no list of the revision's files can be had: nothing but the folder itself can show then that a
              download was not interrupted. None: a pattern without wildcards is proven by its file, any other by nothing

    Raises BuildError where the Hub cannot be reached or does not give it, and for a snapshot that is not whole, or not known to be.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = sorted({*patterns, *(pattern.removeprefix("**/") for pattern in patterns)})  # the Hub's `**/` wants a folder, ours does not
    try:
        folder = Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=wanted))
    except LocalEntryNotFoundError as error:
        partial = _cached(kind, repository, revision)
        if partial is None:
            facts = [(kind, repository), ("revision", revision)]
            raise BuildError(f"the {kind} is not in the Hub's cache, and the Hub cannot be reached", facts, _OFFLINE) from error
        folder = partial
    except (HfHubHTTPError, OSError, ValueError) as error:
        facts = [(kind, repository), ("revision", revision), ("reason", str(error).strip().splitlines()[0])]
        raise BuildError(f"the Hub did not give the {kind}", facts) from error
    listed = _listed(kind, repository, revision)
    if listed is not None:
        matching = {name: size for name, size in listed.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)}
        missing = [name for name, size in matching.items() if not _is_whole(folder / name, size)]
        if missing:
            raise _partial(f"the {kind} in the Hub's cache is not complete", kind, repository, revision, ("missing", missing))
        return folder
    unseen = (unproven or _wildcards(patterns))(folder, lambda name: (folder.parents[1] / ".no_exist" / revision / name).is_file())
    if unseen:
        raise _partial(f"the {kind} in the Hub's cache cannot be shown to be complete", kind, repository, revision, ("not there", unseen))
    return folder


def _cached(kind: Kind, repository: str, revision: str) -> Path | None:
    """The folder of a revision as the cache has it, whole or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        partial = getattr(error, "snapshot_path", None)
        return None if partial is None else Path(partial)


def _listed(kind: Kind, repository: str, revision: str) -> Mapping[str, int] | None:
    """File -> bytes of everything in a revision: as its download noted it, or as the Hub says now; None where neither can be had."""
    import huggingface_hub
    from huggingface_hub.hf_api import RepoFile

    def noted() -> list[RepoFile]:
        return huggingface_hub.get_cached_repo_tree(repository, repo_type=kind, revision=revision)

    def asked() -> list[RepoFile]:
        tree = huggingface_hub.HfApi().list_repo_tree(repository, repo_type=kind, revision=revision, recursive=True)
        return [entry for entry in tree if isinstance(entry, RepoFile)]

    for entries in (noted, asked):
        try:
            return {entry.path: entry.size for entry in entries()}
        except Exception:  # not noted, an older version, offline, refused: each version of the package has exceptions of its own
            continue
    return None


def _is_whole(file: Path, size: int) -> bool:
    try:
        return file.is_file() and file.stat().st_size == size
    except OSError:
        return False


def _wildcards(patterns: Sequence[str]) -> Callable[[Path, IsAbsent], list[str]]:
    def unproven(folder: Path, is_absent: IsAbsent) -> list[str]:
        return [pattern for pattern in patterns if "*" in pattern or "?" in pattern or "[" in pattern or not (folder / pattern).is_file()]

    return unproven


def _partial(headline: str, kind: Kind, repository: str, revision: str, files: tuple[str, Sequence[str]]) -> BuildError:
    label, names = files
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    option = " --repo-type dataset" if kind == "dataset" else ""
    facts = [(kind, repository), ("revision", revision), (label, shown)]
    return BuildError(headline, facts, f"complete it: hf download {repository}{option} --revision {revision}")
