"""The process that workers are forked from: what they need is loaded here, once, without garbage collection. It ends at once.

What fails to load is left out: the action that needs it fails, in its own words.
"""

import atexit
import contextlib
import gc
import importlib
import os

from buildsys import workers

os.chdir(workers.FOLDER)
gc.disable()  # a quarter of the time it takes to load libraries; workers turn it on
for name in os.environ.pop(workers.PRELOAD, "").split():
    with contextlib.suppress(Exception):
        importlib.import_module(name)
atexit.register(os._exit, 0)  # taking libraries down would take another second, and hold the build's output open for as long
