"""One training in several processes that share each update, one for each GPU, through `accelerate launch`; on the CPU without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildsys import files
from buildsys.errors import BuildError
from buildsys.progress import Progress

if TYPE_CHECKING:
    from buildsys.rules.train import Params

_SAID, _FACTS, _ERROR, _REQUEST = "progress ", "facts.json", "error.json", "request.json"


def compiled(paths: Mapping[str, Any], params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    """What `compiler.compiled` gives, made by `params.processes` processes. Raises the BuildError of the first that fails."""
    folder = progress.folder
    plain = {role: [str(one) for one in given] if isinstance(given, list) else str(given) for role, given in paths.items()}
    request: dict[str, Any] = {"paths": plain, "params": params.model_dump(), "out": str(out), "folder": str(folder)}
    cache = None if progress.cache is None else str(progress.cache)
    request |= {"settings": dict(progress.settings), "cache": cache, "worker": os.getpid()}
    files.write_whole(folder / _REQUEST, json.dumps(request).encode(), flush=False)
    for name in (_FACTS, _ERROR):
        (folder / name).unlink(missing_ok=True)
    command = [*_launcher(params), "--module", "buildsys.rules.train", str(folder / _REQUEST)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_SAID):
                text, share = json.loads(line.removeprefix(_SAID))
                progress(text, share)
            else:
                print(line, end="")
    if (folder / _ERROR).exists():
        failed = json.loads((folder / _ERROR).read_text())
        raise BuildError(failed["headline"], [tuple(row) for row in failed["facts"]], failed["hint"])
    if process.returncode:
        raise BuildError("a process of the training ended", [("processes", str(params.processes)), ("exit code", str(process.returncode))])
    facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())
    return facts


def _launcher(params: Params) -> list[str]:
    """`accelerate launch` where there are GPUs; on a CPU, for which it knows MPI alone, the launcher that it would start itself."""
    import torch

    number = str(params.processes)
    if torch.accelerator.is_available():
        found = torch.accelerator.device_count()
        if found < params.processes:
            raise BuildError("there are fewer GPUs than processes", [("GPUs", str(found)), ("processes", number)], "lower processes")
        threads = ["--num_cpu_threads_per_process", str(params.threads)]
        none = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", number, *threads, *none]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", number]


def take_part(request: Path, made: Callable[..., Params]) -> None:
    """In one of the processes. The first writes the vector, the facts and what is going on.

    made  parameters from what `model_dump` gave
    """
    import torch

    from buildsys.tensors import models
    from buildsys.training import compiler

    given, first = json.loads(request.read_text()), os.environ.get("RANK", "0") == "0"
    params, folder = made(**given["params"]), Path(given["folder"])
    threading.Thread(target=_end_with, args=(given["worker"],), daemon=True).start()

    def say(text: str, share: float | None) -> None:
        if first:
            print(_SAID + json.dumps([text, share]), flush=True)

    paths = {role: [Path(one) for one in where] if isinstance(where, list) else Path(where) for role, where in given["paths"].items()}
    try:
        models.deterministic(params.seed, params.threads)
        cache = None if given["cache"] is None else Path(given["cache"])
        progress = Progress(folder, say, given["settings"], cache)
        facts = compiler.compiled(paths, params, Path(given["out"]) if first else None, progress)
    except BuildError as error:
        (folder / _ERROR).write_text(json.dumps({"headline": error.headline, "facts": error.facts, "hint": error.hint}))
        raise SystemExit(1) from error
    if first:
        (folder / _FACTS).write_text(json.dumps(facts))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # who leaves first takes a connection away that the others still use
        torch.distributed.destroy_process_group()


def _end_with(process: int) -> None:
    """End when the worker that asked has ended: the launcher gives its processes sessions of their own."""
    while True:
        time.sleep(0.5)
        try:
            os.kill(process, 0)
        except OSError:
            os._exit(1)
