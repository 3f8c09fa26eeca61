"""Loaded first by the process that workers are forked from: deaf to Ctrl-C, no garbage collection as libraries load, quick to end."""

import atexit
import gc
import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; this one ends with its build
gc.disable()  # a quarter of the time it takes to load libraries; workers turn it on
atexit.register(os._exit, 0)  # taking libraries down would take another second, and hold the build's output open for as long
