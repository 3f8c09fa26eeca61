"""`python -m tests.fuzz --seconds N`: mutated inputs for every parser, on all cores; what fails becomes a file of the corpus."""

import argparse
import mmap
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType

from tests.fuzz import mutation, targets

SLOW_SECONDS, HANG_SECONDS, BYTES_MAX = 1.0, 10, 500_000_000
_REPORT_SECONDS, _ROOM = 1.0, 1 << 18


class Hang(Exception):
    pass


@dataclass
class Tally:
    """Of one target: inputs that were run, and faults by their kind."""

    inputs: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--target", choices=sorted(targets.TARGETS), action="append")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = options.target or sorted(targets.TARGETS)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.workers} workers, {options.seconds:g} s, targets: {', '.join(names)}", flush=True)
    tallies = {name: Tally() for name in names}
    peak = _supervised(names, seed, options.seconds, options.workers, tallies)
    faults = sum(sum(tally.faults.values()) for tally in tallies.values())
    for name, tally in tallies.items():
        kinds = ", ".join(f"{number} {kind}" for kind, number in tally.faults.items())
        print(f"{name:14} {tally.inputs:>10,} inputs  {kinds or 'no fault'}")
    total = sum(tally.inputs for tally in tallies.values())
    print(f"{'all':14} {total:>10,} inputs, {total / options.seconds:,.0f} a second; {faults} faults; peak memory {peak / 1e6:,.0f} MB")
    return 1 if faults or not total else 0


def _supervised(names: list[str], seed: int, seconds: float, workers: int, tallies: dict[str, Tally]) -> int:
    """Run the workers until time is up; one that dies is a fault of its last input, and is replaced. Returns the peak of memory."""
    end, said, peak, started = time.monotonic() + seconds, time.monotonic(), 0, 0
    running: dict[Connection, tuple[multiprocessing.process.BaseProcess, Path]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end or running:
            while len(running) < workers and time.monotonic() < end:
                ours, theirs = multiprocessing.Pipe(duplex=False)
                last = Path(folder) / str(started)
                last.write_bytes(bytes(_ROOM))
                left = end - time.monotonic()
                process = multiprocessing.Process(target=_work, args=(names, f"{seed}/{started}", left, theirs, last), daemon=True)
                process.start()
                theirs.close()
                running[ours] = process, last
                started += 1
            for reader in wait(list(running), timeout=1):
                assert isinstance(reader, Connection)
                try:
                    for name, inputs, faults, used in reader.recv():
                        peak = max(peak, used)
                        tallies[name].inputs += inputs
                        for kind, number in faults.items():
                            tallies[name].faults[kind] = tallies[name].faults.get(kind, 0) + number
                except EOFError:
                    process, last = running.pop(reader)
                    process.join()
                    if process.exitcode:
                        name, data = _last_input(last)
                        tallies[name].faults["died"] = tallies[name].faults.get("died", 0) + 1
                        _keep(name, data, f"a worker ended with {process.exitcode}")
            if time.monotonic() - said > 5:
                said = time.monotonic()
                total = sum(tally.inputs for tally in tallies.values())
                faults = sum(sum(tally.faults.values()) for tally in tallies.values())
                print(f"  {max(0, end - said):5.0f} s left  {total:>10,} inputs  {faults} faults", file=sys.stderr, flush=True)
    return peak


def _work(names: list[str], seed: str, seconds: float, out: Connection, last: Path) -> None:
    """One process: the targets in turn, each for a share of a second."""
    chance = random.Random(seed)
    corpora = {name: targets.seeds(name) for name in names}
    kept: set[tuple[str, str]] = set()
    signal.signal(signal.SIGALRM, _hung)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end = time.monotonic() + seconds
    with open(last, "r+b") as file, mmap.mmap(file.fileno(), _ROOM) as room:
        while time.monotonic() < end:
            report = []
            for name in names:
                inputs, faults = 0, dict[str, int]()
                until = time.monotonic() + _REPORT_SECONDS / len(names)
                while time.monotonic() < until:
                    data = mutation.mutated(chance, corpora[name])
                    note = name.encode() + b"\0" + len(data).to_bytes(4, "little") + data
                    room[: len(note)] = note
                    fault = _fault(name, data)
                    inputs += 1
                    if fault is not None:
                        faults[fault[0]] = faults.get(fault[0], 0) + 1
                        if (name, fault[0]) not in kept:  # one input of each kind is enough to mend it
                            kept.add((name, fault[0]))
                            _keep(name, data, fault[1])
                report.append((name, inputs, faults, _memory()))
            out.send(report)


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hang


def _fault(name: str, data: bytes) -> tuple[str, str] | None:
    """(kind, what to say) of an input that did what no input may."""
    memory, started = _memory(), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        targets.run(name, data)
    except Hang:
        return "hang", f"no end after {HANG_SECONDS} s"
    except BaseException as error:
        return type(error).__name__, traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.monotonic() - started
    if seconds > SLOW_SECONDS and _again(name, data) > SLOW_SECONDS:  # a busy machine is not the input's fault
        return "slow", f"{seconds:.1f} s"
    if _memory() - memory > BYTES_MAX:
        return "memory", f"{(_memory() - memory) / 1e6:,.0f} MB"
    return None


def _again(name: str, data: bytes) -> float:
    started = time.process_time()
    targets.run(name, data)
    return time.process_time() - started


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _last_input(last: Path) -> tuple[str, bytes]:
    name, _, rest = last.read_bytes().partition(b"\0")
    return name.decode(), rest[4 : 4 + int.from_bytes(rest[:4], "little")]


def _keep(name: str, data: bytes, reason: str) -> None:
    file = targets.CORPUS / name / f"found-{blake2b(data, digest_size=4).hexdigest()}"
    file.write_bytes(data)
    print(f"FAULT in {name}: {file}\n{reason}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
