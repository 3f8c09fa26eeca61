"""Memory of a run: its peak, and what to lower when there is not enough."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from buildsys.errors import BuildError

_HINT = (
    "lower per_device_train_batch_size and raise gradient_accumulation_steps by as much, lower max_length, "
    'set activation_checkpointing = true, or take optimizer = "apollo-mini" with updates = "fused"'
)


def restart() -> None:
    """Count the peak from here on, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The largest amount so far: of the GPU's memory where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@contextlib.contextmanager
def explained(sizes: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Turns what torch says when memory runs out into an error with the sizes that decide how much is needed."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        known = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(text in said.lower() for text in known):
            raise
        asked = [line for line in said.splitlines() if "alloc" in line.lower()][:1]
        facts = [("asked", line.strip()[:160]) for line in asked]
        facts.append(("peak so far", f"{peak_bytes() / 2**30:.2f} GiB"))
        raise BuildError("there is not enough memory to train", [*facts, *sizes], _HINT) from error
