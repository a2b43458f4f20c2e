"""Damages weights files of each format and loads them: `python benchmarks/fuzz_weights.py --count=20000`.

A damaged file may load, if only its numbers or settings changed, or be refused by a UserError of one line. All else is
a fault: another exception, a warning, a load of half a minute, gigabytes of memory, a command that was executed. A
fault names its case, which `--format=NAME --first=CASE --count=1` repeats; the exit status is then 1.
"""

import argparse
import collections
import contextlib
import pathlib
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable

import numpy as np
from fuzz_damage import CANARY, damage
from fuzz_models import FORMATS

from clipjax import weights
from clipjax.errors import UserError
from clipjax.progress import track

_SECONDS = 30
_MEMORY = 3 << 30  # bytes beyond what the program takes at its start
_LONGEST = 5000  # characters of a message


def main() -> None:
    """Run each format, print a line for it and its first faults; exit with 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="damaged files of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--format", choices=FORMATS, help="this one alone")
    args = parser.parse_args()
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    faults = 0
    for name in [args.format] if args.format else FORMATS:
        cases = range(args.first, args.first + args.count)
        counts, found = run(name, track(cases, name, len(cases), "files"), args.seed)
        faults += len(found)
        print(f"{name}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items())), flush=True)
        print("".join(f"{fault}\n" for fault in found[:5]), end="", flush=True)
    sys.exit(1 if faults else 0)


def run(name: str, cases: Iterable[int], seed: int = 0) -> tuple[collections.Counter, list[str]]:
    """(how many came out how, the faults with their traces) of these cases of a format."""
    counts: collections.Counter = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        folder = pathlib.Path(place, "model")
        folder.mkdir()
        source = FORMATS[name](folder)
        whole = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        good = _load(source)
        for case in cases:
            rng = random.Random(f"{seed}/{name}/{case}")
            victim = rng.choice(list(whole))
            content = whole[victim]
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                content = damage(victim, content, rng)
            _put(folder / victim, content)
            outcome, trace = _judge(source, good)
            _put(folder / victim, whole[victim])
            counts[outcome] += 1
            if trace:
                faults.append(f"{name} case {case} ({victim}): {trace}")
    return counts, faults


def _judge(source: pathlib.Path, good: weights.Weights) -> tuple[str, str]:
    """(outcome, trace of a fault or nothing) of loading what is there now."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_SECONDS)
    try:
        found = _load(source)
    except UserError as error:
        line = str(error)
        if line and "\n" not in line and len(line) <= _LONGEST:
            return "refused", ""
        return "FAULT", f"not a line: {line[:300]!r} ({len(line)} characters)"
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic of a library in Rust is no Exception
        return "FAULT", traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)
        if pathlib.Path(CANARY).exists():
            raise SystemExit(f"{source}: a command in it was executed")
    same = found.model == good.model and all(
        np.array_equal(array, good.arrays.get(path), equal_nan=True) for path, array in found.arrays.items()
    )
    return "loaded as it was" if same else "loaded otherwise", ""


def _load(source: pathlib.Path) -> weights.Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return weights.read(source, activation="quick_gelu")


def _too_long(*_) -> None:
    raise TimeoutError(f"more than {_SECONDS} s")


def _put(path: pathlib.Path, content: bytes) -> None:
    path.unlink()  # a new file: the old one may still be mapped into memory
    path.write_bytes(content)


if __name__ == "__main__":
    main()
