"""Text inputs in order -> one text. Appends its name to a log, so that tests see what ran."""

import os
import sys
from pathlib import Path
from typing import Any

from buildsys.errors import BuildError
from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"parts": "texts"}
PRELOAD = ()
FLUSH = False


class Params(Strict):
    suffix: str = ""
    truncate: int = 1000


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    parts = [path.read_text() if path.is_file() else (path / "text").read_text() for path in inputs["parts"]]
    text = ("".join(parts) + params.suffix)[: params.truncate]
    with open(progress.settings["log"], "a") as log:
        log.write(f"{progress.settings['name']}\n")
    if params.suffix == "fail":
        raise BuildError("asked to fail", [("suffix", "fail")], "use another suffix")
    if params.suffix == "die":
        os._exit(9)
    if params.suffix.startswith("talk"):
        for line in range(20_000):
            progress(f"{progress.settings['name']} {line}")
    if params.suffix == "oops":
        {}["missing"]
    if params.suffix == "break":
        breakpoint()
    if params.suffix == "litter":
        os.chdir("/")
        os.environ["LITTER"] = "1"
        sys.path.insert(0, "/litter")
    if params.suffix == "print":
        os.system("echo from a program")
    if params.suffix == "meddle":
        inputs["parts"][0].resolve().write_text("changed meanwhile")
    if params.suffix == "restore":
        file = inputs["parts"][0].resolve()
        before, status = file.read_text(), file.stat()
        file.write_text("changed meanwhile")
        file.write_text(before)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    (out / "text").write_text(text)
    (out / "length").write_text(str(len(text)))
    return {"length": len(text)}
