"""The pass over a model: base and vectors in, through a method, a Hugging Face folder out. Bounded memory, all cores, hashed on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from buildsys.errors import BuildError, Mismatch
from buildsys.machine import cores
from buildsys.merging import coefficients as recipes
from buildsys.merging import fused, processor, thresholds
from buildsys.merging.deltas import Deltas, Pool
from buildsys.merging.entries import Rule, Whole
from buildsys.merging.methods import METHODS, SPECTRAL
from buildsys.merging.vocabulary import Vocabulary
from buildsys.tensors import arrays, checkpoints, matching, tokens, writing
from buildsys.tensors.arrays import Array
from buildsys.tensors.vectors import Vector

if TYPE_CHECKING:
    from buildsys.progress import Progress

_AHEAD = 4  # pieces that may wait for the writer, for each thread


@dataclass(frozen=True)
class Recipe:
    """method, options  as `options.completed` gives them
    coefficients     one for each vector
    post             "svc" after the method, with its alpha; None: nothing
    tokenizer        what to do about added tokens; None: refuse them
    """

    method: str
    options: Mapping[str, Any]
    coefficients: Sequence[recipes.Coefficient]
    post: str | None = None
    svc_alpha: float = 1.0
    tokenizer: str | None = None


def place_for(device: str) -> Any:
    """Where tiles are worked on. "auto": on a GPU where the system has one, which is asked without torch first; else its name, or "cpu"."""
    if device == "cpu" or (device == "auto" and not any(Path(node).exists() for node in _GPU_NODES)):
        return processor
    import torch

    if device == "auto" and not torch.accelerator.is_available():
        return processor
    from buildsys.merging.accelerator import Accelerator

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device != "auto" and (found is None or found.type != device):
        hint = 'device = "auto" takes a GPU where there is one'
        raise BuildError(f"there is no device '{device}' here", [("found", found.type if found else "a CPU")], hint)
    assert found is not None
    return Accelerator(found.type)


_OTHER_TOKENS = "vectors add up only where a token means the same row"
_GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/dri/renderD128")


class Merge:
    """A recipe over the files it is about. Raises BuildError, before any tensor is read, for what does not fit together.

    vectors  folders; digests: what names each of them for ever
    """

    def __init__(
        self, base: Path, vectors: Sequence[Path], digests: Sequence[str], recipe: Recipe, threads: int | None = None, device: str = "cpu"
    ) -> None:
        self.base, self.recipe, self.digests = checkpoints.Checkpoint(base), recipe, list(digests)
        self.vectors = [Vector(folder) for folder in vectors]
        self.labels = [f"vector {position + 1}" for position in range(len(vectors))]
        for label, vector in zip(self.labels, self.vectors, strict=True):
            vector.fits(self.base.entries, label)
        for label, vector in zip(self.labels, self.vectors, strict=True):
            if vector.base is not None and not tokens.alike(vector.base.place, self.base.place):
                raise Mismatch(f"{label} comes from a base with another tokenizer", [("base", str(self.base.place))], _OTHER_TOKENS)
        stored_twice = matching.twin(self.base)
        if stored_twice is not None:  # a head that is tied and stored moves with its embeddings, or transformers unties them
            head, embeddings = stored_twice
            for vector in self.vectors:
                if embeddings in vector.taus:
                    vector.taus[head] = vector.taus[embeddings]
        self.vocabulary = Vocabulary(self.base, self.vectors, self.labels, recipe.tokenizer)
        self.depths = recipes.Depths(self.base.names)
        for label, coefficient in zip(self.labels, recipe.coefficients, strict=True):
            self.depths.check(coefficient, label)
        self.pool = Pool(threads or cores(), place_for(device))

    def deltas(self, name: str) -> Deltas | None:
        """The vectors of one tensor, those that take part; None where none does."""
        taking = self.taking(name)
        found = self._coefficients(name)
        if not any(name in self.vectors[position].taus for position in taking):
            return None
        return Deltas(
            name,
            self.base.entries[name],
            [self.vectors[position].taus.get(name) for position in taking],
            [found[position] for position in taking],
            [self.digests[position] for position in taking],
            self.pool,
            lambda density: self._thresholds(density)[taking],
        )

    def taking(self, name: str) -> list[int]:
        """The positions of the vectors that take part in a tensor: those whose coefficient is not 0 there."""
        return [position for position, coefficient in enumerate(self._coefficients(name)) if coefficient]

    def _coefficients(self, name: str) -> list[float]:
        return [recipes.at(one, name, self.depths.of(name)) for one in self.recipe.coefficients]

    def method(self, deltas: Deltas) -> Rule:
        rule: Rule = METHODS[self.recipe.method](deltas, **self.recipe.options)
        return rule

    def rule(self, deltas: Deltas) -> Rule:
        """What the method makes of a tensor, with what is done after it."""
        rule = self.method(deltas)
        if self.recipe.post == "svc" and len(deltas.shape) == 2:
            from buildsys.merging.spectral import calibrated

            return Whole(calibrated(deltas, evaluated(deltas, rule), self.recipe.svc_alpha))
        return rule

    @cache  # noqa: B019  one merge a process
    def _thresholds(self, density: float) -> Array:
        """(n,) from which magnitude each vector keeps its entries, over the whole model: the tensors that any vector has."""
        names = sorted({name for vector in self.vectors for name in vector.taus})
        ones = [1.0] * len(self.vectors)
        taus = [(name, [vector.taus.get(name) for vector in self.vectors]) for name in names]
        tensors = [Deltas(name, self.base.entries[name], own, ones, self.digests, self.pool) for name, own in taus]
        return thresholds.kept_in_model(tensors, density)

    def close(self) -> None:
        self.pool.close()


def evaluated(deltas: Deltas, rule: Rule) -> Array:
    """The merged delta of a tensor, whole, float32, in its shape."""
    out = numpy.empty(deltas.count, numpy.float32)

    def piece(start: int, stop: int) -> None:
        for tile in deltas.tiles(start, stop, rule.whole_rows):
            delta = deltas.pool.buffer("delta", (tile.size,))
            rule.apply(deltas, tile, delta)
            out[tile.start : tile.start + tile.size] = deltas.pool.place.host(delta)

    deltas.each(piece, rule.whole_rows)
    return out.reshape(deltas.shape)


def merge(work: Merge, out: Path, progress: Progress, shard_bytes: int = writing.SHARD_BYTES) -> dict[str, Any]:
    """Write base + merged τ as a Hugging Face folder with the base's other files. Returns facts, the files' digests among them.

    The result is rounded once, to the dtype that each tensor of the base has. Raises BuildError where a result is not finite, and where
    the whole of it is the base although a coefficient is not 0.
    """
    base, vocabulary = work.base, work.vocabulary
    header = {name: (entry.dtype, vocabulary.shape(name, entry.shape)) for name, entry in base.entries.items()}
    files = writing.shards(header, shard_bytes)
    total, done, changed = base.size_bytes or 1, 0, 0
    digests = {}
    spectral = work.recipe.method in SPECTRAL or work.recipe.post is not None
    # The next tensor's rule is found while this one is written. A decomposition takes one thread, so that its bytes depend on no number
    # of them; several go on at once.
    at_once = work.pool.threads if spectral else 1
    with ThreadPoolExecutor(at_once, initializer=_one_thread if spectral else None) as ahead:
        prepared = _prepared(work, [name for names in files.values() for name in names], ahead, at_once)
        for file, names in files.items():
            writer = writing.Writer(out / file, {name: header[name] for name in names}, {"format": "pt"})
            for name in names:
                progress(name, done / total)
                deltas, rule = next(prepared)
                if deltas is None or rule is None:
                    for start, part in _copied(base.entries[name]):
                        vocabulary.replace_rows(name, start, part)
                        writer.write(name, part)
                else:
                    changed += _write(writer, deltas, rule, vocabulary)
                writer.write(name, vocabulary.new_rows(name))
                done += base.entries[name].stop - base.entries[name].start
            writer.close()
            digests[file] = writer.digest
    if not changed and not vocabulary.facts() and any(map(any, map(recipes.numbers, work.recipe.coefficients))):
        hint = "all vectors are 0 here, or too small for the base's dtype"
        raise BuildError("the merge changes nothing: its result is the base, bit for bit", [("tensors", str(len(base.names)))], hint)
    vocabulary.copy_rest(base.place, out)
    if len(files) > 1:
        (out / writing.INDEX).write_bytes(writing.index(header, files))
    facts: dict[str, Any] = {
        "tensors": len(header),
        "tensors_changed": changed,
        "bytes": sum(writing.size_bytes(*h) for h in header.values()),
    }
    facts["device"] = str(getattr(work.pool.place, "device", "cpu"))
    return facts | vocabulary.facts() | {"digests": digests}


def _one_thread() -> None:
    """For a thread that is about to call torch: its own number of threads, and that of the libraries below it."""
    import torch

    torch.set_num_threads(1)


def _prepared(work: Merge, names: Sequence[str], ahead: ThreadPoolExecutor, most: int) -> Iterator[tuple[Deltas | None, Rule | None]]:
    def prepare(name: str) -> tuple[Deltas | None, Rule | None]:
        deltas = work.deltas(name)
        return deltas, None if deltas is None or not deltas.count else work.rule(deltas)

    waiting: deque[Any] = deque()
    for name in names:
        waiting.append(ahead.submit(prepare, name))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write(writer: writing.Writer, deltas: Deltas, rule: Rule, vocabulary: Vocabulary) -> bool:
    """Write the merged tensor piece by piece, in order. True where it differs from the base's."""
    waiting: deque[Any] = deque()
    changed = False
    one_call = fused.takes(deltas, rule)

    def piece(start: int, stop: int) -> tuple[Array, bool]:
        out = numpy.empty(stop - start, deltas.raw.dtype)
        finite = True
        if one_call:
            finite = fused.merge(deltas, rule, start, stop, out)  # type: ignore[arg-type]
            return finished(start, out), finite
        for tile in deltas.tiles(start, stop, rule.whole_rows):
            delta = deltas.pool.buffer("delta", (tile.size,))
            rule.apply(deltas, tile, delta)
            scratch, place = deltas.pool.buffer("result", (tile.size,)), slice(tile.start, tile.start + tile.size)
            inside = out[tile.start - start : tile.start - start + tile.size]
            finite &= deltas.pool.place.added(deltas.dtype, deltas.raw[place], tile.base, delta, scratch, inside)
        return finished(start, out), finite

    def finished(start: int, out: Array) -> Array:
        """Written by the thread that made it: memory for a file's pages takes longer than the merge."""
        vocabulary.replace_rows(deltas.name, start, out)
        writer.write_at(deltas.name, start * out.itemsize, out)
        return out

    def consume() -> bool:
        start, future = waiting.popleft()
        out, finite = future.result()
        if not finite:
            raise BuildError(f"tensor '{deltas.name}' of the merged model is not finite", hint="lower the coefficients")
        writer.count(deltas.name, out)
        return changed or not numpy.array_equal(out, deltas.raw[start : start + out.size])

    for start, stop in deltas.pieces(rule.whole_rows):
        waiting.append((start, deltas.pool.submit(piece, start, stop)))
        if len(waiting) > _AHEAD * deltas.pool.threads:
            changed = consume()
    while waiting:
        changed = consume()
    return changed


def _copied(entry: checkpoints.Entry) -> Iterator[tuple[int, Array]]:
    """(first entry, numbers) of every part of a tensor that stays as it is."""
    raw = arrays.raw(entry)
    for start in range(0, raw.size, 1 << 20):
        yield start, raw[start : start + (1 << 20)].copy()
