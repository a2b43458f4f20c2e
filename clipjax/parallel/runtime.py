"""How a process starts: the compilation cache, and joining the other processes of a run."""

import ctypes
import gc
import os
import pathlib
import re

from clipjax.errors import UserError

_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h


def start(cache: bool = True) -> None:
    """Prepare JAX for this process; call before anything asks for devices.

    Compiled programs are kept in $CLIPJAX_CACHE, else under the user's cache folder, so that a second start is fast.
    A process with CLIPJAX_COORDINATOR (host:port), CLIPJAX_PROCESSES and CLIPJAX_PROCESS_ID in its environment joins
    that many others; the scripts in launch/ set them. CLIPJAX_COORDINATOR=auto leaves it to JAX to find out who the
    others are, which it can on TPU slices. Each process takes the devices that it sees. Raises UserError if the
    variables cannot be read.
    """
    # Importing and tracing make a million objects that stay; looking through them had a tenth of the time of a start.
    gc.set_threshold(100_000)
    import jax

    # Programs run in the thread that calls them: only glibc's main arena can keep blocks of any size, see below.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    coordinator = os.environ.get("CLIPJAX_COORDINATOR")
    if not coordinator or jax.distributed.is_initialized():
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    processes, me = _number("CLIPJAX_PROCESSES"), _number("CLIPJAX_PROCESS_ID")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"CLIPJAX_COORDINATOR: {coordinator!r} should be host:port, or auto.")
    if me >= processes:
        raise UserError(f"CLIPJAX_PROCESS_ID: {me} should be less than CLIPJAX_PROCESSES={processes}; the first is 0.")
    # Under SLURM, JAX would take one device a process, numbered like the task: wrong for a process a node, and where
    # SLURM shows each task its own GPUs alone.
    jax.distributed.initialize(coordinator, processes, me, cluster_detection_method="deactivate")


def cache_directory() -> pathlib.Path:
    """Where files that can be made again lie: $CLIPJAX_CACHE, else $XDG_CACHE_HOME/clipjax, else ~/.cache/clipjax."""
    given = os.environ.get("CLIPJAX_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(given) if given else pathlib.Path(base) / "clipjax"


def step_directory() -> pathlib.Path | None:
    """Where lowered steps are kept: beside the compiled programs, if `start` has had JAX keep those."""
    import jax

    folder = cache_directory()
    return folder / "steps" if jax.config.jax_compilation_cache_dir == str(folder / "xla") else None


def compiler_options(platform: str) -> dict:
    """What the training step is compiled with on a platform, beside the defaults.

    On CPU, XLA copies every moment before AdamW changes it in place, since parameters are computed from it as well;
    by the order of the two, which region analysis looks at, it need not: a sixth less of the step's memory.
    """
    return {"xla_cpu_copy_insertion_use_region_analysis": True} if platform == "cpu" else {}


def keep_freed_memory() -> None:
    """Let glibc keep what XLA's CPU backend frees after each program, instead of paging it in again in the next one.

    Call before a large program runs first: what was needed to make it, and is free, is given back for good.
    Without it a step of a few hundred MB spends a good part of its time on page faults. Only glibc's main arena can
    keep blocks of any size; one arena for all threads (M_ARENA_MAX) would do as well as running programs in the thread
    that calls them, but compilers in two threads wait for its lock half of the time. Elsewhere than on glibc nothing
    happens.
    """
    try:
        glibc = ctypes.CDLL("libc.so.6")
        glibc.malloc_trim(0)
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            glibc.mallopt(parameter, value)
    except (OSError, AttributeError):
        return


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise UserError(f"{name}: {value!r} should be a whole number, set together with CLIPJAX_COORDINATOR.")
    return int(value)
