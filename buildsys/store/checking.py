"""`build check`: everything in a cache is read and hashed again. Sets damaged objects aside; changes nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from buildsys import measurements
from buildsys.action import Digest
from buildsys.store import trusting
from buildsys.store.cache import Cache
from buildsys.training import resuming

Report = Callable[[str], None]


@dataclass
class Findings:
    """What was looked at, by kind; (path inside the cache, what is wrong with it); and what is no fault, but worth knowing.

    A record or an object may be gone: it is made again when somebody needs it.
    """

    checked: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(cache: Cache, report: Report) -> Findings:
    """Objects against their names; records, history and measurements against their marks; records against the objects that they name."""
    findings = Findings()
    sizes = _sizes(cache)
    done, total = 0, sum(sizes.values())
    for digest, size in sizes.items():
        report(f"{done / (1 << 20):,.0f} of {total / (1 << 20):,.0f} MiB of objects")
        if not cache.objects.verified(digest):
            path = os.path.relpath(cache.objects.place(digest), cache.folder)
            findings.problems.append((path, f"its bytes are not those of its name{_set_aside(cache, digest)}"))
        done += size
    findings.checked["objects"] = len(sizes)
    report("records, history, measurements")
    keys = cache.records.keys()
    absent: set[Digest] = set()
    for key in keys:
        artifact = cache.records.read(key)
        path = os.path.relpath(cache.records.path(key), cache.folder)
        if artifact is None:
            findings.problems.append((path, _WORDS[cache.records.refused.get(key, "damaged")]))
            continue
        wrong = [name for name, (digest, size) in artifact.files.items() if digest in sizes and sizes[digest] != size]
        findings.problems += [(path, f"it gives {name} another size than the object has") for name in wrong]
        absent |= {digest for digest, _ in artifact.files.values() if digest not in sizes}
    findings.checked["records"] = len(keys)
    foreign = trusting.foreign(cache)
    findings.problems += [(f"{measurements.FOLDER}/{name}", _WORDS["foreign"]) for name in foreign.measurements]
    findings.problems += [(os.path.relpath(path, cache.folder), _WORDS["foreign"]) for path in foreign.checkpoints]
    checkpoints = [path for folder in trusting.partial_folders(cache) for path in resuming.checkpoints(folder)]
    for checkpoint in checkpoints:
        if checkpoint not in foreign.checkpoints and not resuming.is_whole(checkpoint, cache.marks):
            findings.problems.append((os.path.relpath(checkpoint, cache.folder), "it is cut off or damaged: no training goes on from it"))
    lines = cache.history.lines()
    strange = set(foreign.generations)
    findings.problems += [(f"{cache.history.path.name}:{n}", _WORDS["foreign"]) for n, line in enumerate(lines, 1) if line in strange]
    findings.checked["generations"] = len(lines)
    recorded = set(keys)
    generations = [one for one in map(cache.history.generation, lines) if one is not None]
    lost = {key for one in generations for key in one.keys.values()} - recorded
    findings.notes += [f"{len(absent)} of the objects that records name are not here"] if absent else []
    findings.notes += [f"{len(lost)} of the results that the history names are not recorded any more"] if lost else []
    return findings


def _sizes(cache: Cache) -> dict[Digest, int]:
    """Of all objects, in bytes; one that another build takes away meanwhile is left out."""
    sizes = {}
    for digest in cache.objects.digests():
        with suppress(FileNotFoundError):
            sizes[digest] = os.lstat(cache.objects.place(digest)).st_size
    return sizes


def _set_aside(cache: Cache, digest: Digest) -> str:
    """Keep a damaged object from being believed; says so where the cache can be written."""
    try:
        cache.objects.set_aside(digest)
    except OSError:
        return ""
    return ": set aside in cache/damaged"


_WORDS = {
    "foreign": "it carries no mark of yours: written by somebody else, or damaged",
    "damaged": "it is damaged",
    "newer": "it is of a newer buildsys",
}
