"""Pinned revisions of the Hugging Face Hub: fetched into its own cache, where they are not there yet. Knows no model and no rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from buildsys.errors import BuildError

_OFFLINE = "unset HF_HUB_OFFLINE, check the network, or download it once with 'hf download'"


def snapshot(kind: Literal["model", "dataset"], repository: str, revision: str, patterns: Sequence[str]) -> Path:
    """The folder of a revision, with the files that match. Raises BuildError where the Hub cannot be reached or does not give it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = sorted({*patterns, *(pattern.removeprefix("**/") for pattern in patterns)})  # the Hub's `**/` wants a folder, ours does not
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=wanted))
    except LocalEntryNotFoundError as error:
        facts = [(kind, repository), ("revision", revision)]
        raise BuildError(f"the {kind} is not in the Hub's cache, and the Hub cannot be reached", facts, _OFFLINE) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        facts = [(kind, repository), ("revision", revision), ("reason", str(error).strip().splitlines()[0])]
        raise BuildError(f"the Hub did not give the {kind}", facts) from error
