"""Plans of the paper's nine models at its batch of 32,768, compiled for TPU slices that are not here.

    pip install 'clipjax[tpu]'
    python benchmarks/plans.py                  # all rows: some 50 minutes on two cores, 6 GB for RN50x64
    python benchmarks/plans.py ViT-L/14         # those of one model; the others stay as they are

Writes benchmarks/PLANS.md, row by row. The settings below were found with `clipjax plan --search` and by hand.
"""

import pathlib
import re
import sys
from typing import NamedTuple

from clipjax.config import default_config, resolve
from clipjax.planning.plan import Plan, plan
from clipjax.training.memory import in_words

TARGET = pathlib.Path(__file__).with_name("PLANS.md")
BATCH = 32_768


class Row(NamedTuple):
    """One plan: batch 32,768 in `parts` micro-batches, state divided over `fsdp` of the slice's devices."""

    model: str
    topology: str
    fsdp: int
    parts: int
    remat: str


ROWS = (
    Row("RN50", "v5e:16x16", 1, 1, "block"),
    Row("RN101", "v5e:16x16", 1, 1, "block"),
    Row("RN50x4", "v5e:16x16", 1, 1, "block"),
    Row("RN50x16", "v5e:16x16", 16, 2, "block"),
    Row("RN50x64", "v5e:16x16", 16, 4, "block"),
    Row("ViT-B/32", "v5e:16x16", 1, 1, "none"),
    Row("ViT-B/16", "v5e:16x16", 1, 1, "block"),
    Row("ViT-L/14", "v5e:16x16", 16, 1, "block"),
    Row("ViT-L/14", "v5p:4x4x4", 1, 1, "block"),
    Row("ViT-L/14@336px", "v5e:16x16", 16, 1, "block"),
)

HEAD = f"""# Plans

Each of the paper's nine models at batch {BATCH:,}, compiled ahead of time for a slice of TPUs and read off the
program ([docs/plan.md](../docs/plan.md) says what each figure is). Compiled: that it fits, and the bytes of a chip,
arguments and temporaries, against what the compiler allows. Estimates: all times, and what follows from them; nothing
was timed. *Bound*: the longest of compute, memory and network, with its name; *serial*: their sum; *compiler*: its own
estimate of all operations one after another, collectives apart. Utilisation is the time of the useful operations (three
forward passes) over each.

Written by `python benchmarks/plans.py`, which holds the settings.
"""
COLUMNS = (
    *("model", "topology", "mesh (data x fsdp)", "micro-batch", "remat", "bytes a chip", "bound", "utilisation"),
    *("serial", "compiler", "versions"),
)


def config(row: Row):
    """The configuration of a row: bfloat16, the paper's 32 epochs of 400 million pairs."""
    made = default_config()
    made.model.preset, made.batch_size, made.total_steps = row.model, BATCH, 390_625
    made.precision, made.remat, made.mesh.fsdp = "bfloat16", row.remat, row.fsdp
    if row.parts > 1:
        made.micro_batch_size = BATCH // row.parts
    return resolve(made)


def line(row: Row, made: Plan) -> str:
    """The row of the table."""
    sizes, terms, micro = made.found["sizes"], made.step_seconds, made.as_dict()["micro_batch_size"]
    cells = [row.model, row.topology, f"{sizes['data']} x {sizes['fsdp']}", f"{micro:,}", row.remat]
    memory = f"{in_words(made.bytes_per_chip['total'])} of {in_words(made.chip_memory_bytes)}"
    versions = " ".join(made.found["versions"].values())
    if not made.fits:
        return _cells([*cells, f"does not fit: {memory}", "", "", "", "", versions])
    limit = max(("compute", "memory", "network"), key=lambda name: terms[name])
    compiler = made.compiler_seconds
    cells += [memory, f"{_ms(terms['total'])}, {limit}", f"{made.utilisation:.0%}"]
    cells += [f"{_ms(made.serial_seconds)}, {made.utilisation_serial:.0%}"]
    cells += [f"{_ms(compiler)}, {made.useful_seconds / compiler:.0%}", versions]
    return _cells(cells)


def write(lines: dict[Row, str]) -> None:
    """PLANS.md with these rows, in the order of the table."""
    rows = [_cells(COLUMNS), _cells(["---"] * len(COLUMNS)), *(lines[row] for row in ROWS if row in lines)]
    TARGET.write_text(HEAD + "\n" + "\n".join(rows) + "\n")


def read() -> dict[Row, str]:
    """The rows that PLANS.md has already, by the setting that they are of."""
    text = TARGET.read_text() if TARGET.exists() else ""
    found = {}
    for row in ROWS:
        micro = f"{BATCH // row.parts:,}"
        start = rf"\| {re.escape(row.model)} \| {row.topology} \| \d+ x {row.fsdp} \| {micro} \| {row.remat} \|.*"
        if match := re.search(start, text):
            found[row] = match[0]
    return found


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


def _cells(cells) -> str:
    return f"| {' | '.join(cells)} |"


def main(models: list[str]) -> None:
    """Compile the rows of those models (all of them by default) and write them."""
    lines = read()
    for row in ROWS:
        if not models or row.model in models:
            lines[row] = line(row, plan(config(row), row.topology, seconds=3600))
            print(lines[row], flush=True)
            write(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
