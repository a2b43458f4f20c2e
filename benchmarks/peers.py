"""Encoding and training beside open_clip, on the same weights, in one run: seconds, and open_clip's over ours.

    python benchmarks/peers.py --model=ViT-B/32 [--data='D/train/*.tar'] [--tasks=image,text,train,start] [--rounds=5]

In an environment with torch and open_clip, on quiet cores. Each variant is a process that stays; after two warm-ups
each is asked in turn for one piece of work, so that whatever else the machine does meets all alike. Printed are the
medians and the median over the rounds of open_clip's seconds over ours: more than 1 means that this program is faster.
float32, batch 16. Ours is the program's own path: `Bundle`, and the step that `clipjax train` compiles. open_clip runs
as it comes and, as ours does, keeping the memory that it frees ("kept"); its AdamW is the fused one, and its ResNets
also run with channels last. All must agree first: features within 1e-4, the loss of the first step within 1e-4 of it.

--data names pictures with captions as data.train does, and the captions come from there. Without it they are as long
as Flickr8k's and made of a few words; open_clip computes 77 tokens whatever they are. Prompts are those of a zero-shot
evaluation: seven templates of the release for ImageNet, and classes of CIFAR-100.
"""

import argparse
import json
import multiprocessing
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from peers_start import seconds_to_first_step
from peers_workers import Encoding, Training, serve, write_weights

from clipjax.config import DataConfig, preset
from clipjax.text import END, tokenize
from clipjax.text.lengths import by_length, lengths

BATCH, MANY = 16, 128
CAPTION_TOKENS = (4, 8, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 12, 13, 13, 13, 14, 14, 14, 15, 15, 15, 16, 16, 16, 17)
CAPTION_TOKENS += (17, 18, 18, 19, 21, 22, 37)  # quantiles of Flickr8k's captions, start and end included
WORDS = "a dog runs on the green grass with red ball".split()
LONG = "a dog " * 60
TEMPLATES = ("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.")
TEMPLATES += ("a {} in a video game.", "art of the {}.", "a photo of the small {}.")
CLASSES = "apple,aquarium fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,butterfly,camel,can"
PROMPTS = [text.format(name) for name in f"{CLASSES},castle,caterpillar,cattle".split(",") for text in TEMPLATES]


def main() -> None:
    """Measure the tasks asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/32", help="a preset that open_clip has too (default %(default)s)")
    parser.add_argument("--data", default="", help="pictures with captions, as data.train takes them")
    parser.add_argument("--tasks", default="image,text,train,start", help="which of them (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file for the numbers of every round")
    args = parser.parse_args()
    captions = _captions(args.data, args.rounds * BATCH + MANY)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.pt"
        _alone(write_weights, args.model, weights)
        for task in args.tasks.split(","):
            if task == "start":
                rows += starts(args.model, pathlib.Path(folder), args.rounds)
            else:
                rows += compare(task, args.model, weights, cases(task, args.model, captions, args.rounds))
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print_table(args.model, rows)


def cases(task: str, name: str, captions: list[str], rounds: int) -> dict[str, list[tuple]]:
    """What is asked: the name of a row to the arguments of each round."""
    size, random = preset(name).image.image_size, np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    batches = [captions[first : first + BATCH] for first in range(0, rounds * BATCH, BATCH)]
    if task == "image":
        return {"encode 16 pictures": [(random.standard_normal(images.shape, np.float32),)] * rounds}
    if task == "text":
        return {
            "encode 16 captions": [(batch,) for batch in batches],
            f"encode {MANY} captions, sorted": [(captions[-MANY:],)] * rounds,
            f"encode {MANY} prompts, sorted": [(PROMPTS[:MANY],)] * rounds,
            "encode 16 texts of 77 tokens": [([LONG] * BATCH,)] * rounds,
        }
    # the larger case last, so that each row's peak is its own
    return {
        "train, 16 captions": [(images, batch) for batch in batches],
        "train, 77 tokens computed": [(images, [f"{caption} {LONG}" for caption in batches[0]])] * rounds,
    }


def compare(task: str, name: str, weights: str, wanted: dict[str, list[tuple]]) -> list[dict]:
    """A row for each case, from one process a variant."""
    kind = Training if task == "train" else Encoding
    workers = {variant: _Worker(kind, variant, name, weights) for variant in variants(name)}
    rows = []
    for case, rounds in wanted.items():
        for arguments in [rounds[0], *_one_a_length(rounds)]:
            _agree(case, {variant: worker.ask(task, *arguments)[0] for variant, worker in workers.items()})
        found = {variant: [] for variant in workers}
        for arguments in rounds:
            for variant, worker in workers.items():
                found[variant].append(worker.ask(task, *arguments)[1:])
        rows.append({"task": case, **{variant: _summary(found, variant) for variant in found}})
        print(f"{name}: {case} done", file=sys.stderr)
    for worker in workers.values():
        worker.end()
    return rows


def variants(name: str) -> list[str]:
    """Ours first, then open_clip's."""
    more = ["channels last, kept"] if preset(name).image.kind == "resnet" else []
    return ["ours", "open_clip", "kept", *more]


def starts(name: str, folder: pathlib.Path, rounds: int) -> list[dict]:
    """Seconds from the command to the end of the first training step of two pairs, everything newly drawn."""
    cold = seconds_to_first_step("ours", name, folder)
    found = {variant: [] for variant in ("ours", "open_clip")}
    for _ in range(rounds):
        for variant in found:
            found[variant].append((seconds_to_first_step(variant, name, folder), 0.0, 0, 0.0))
    row = {variant: _summary(found, variant) for variant in found}
    return [{"task": f"start to first step, batch 2, filled cache (ours with an empty one: {cold:.1f} s)", **row}]


def print_table(name: str, rows: list[dict]) -> None:
    """Markdown: a line a row, a pair of columns a variant."""
    others = [variant for variant in variants(name) if variant != "ours"]
    heads = ["task", "ours s", "GB", *(f"{other} s | GB | ratio" for other in others)]
    print(f"{name}\n| {' | '.join(heads)} |\n" + "|---" * (3 + 3 * len(others)) + "|")
    for row in rows:
        cells = [row["task"], f"{row['ours']['seconds']:.3f}", f"{row['ours']['gigabytes']:.1f}"]
        for other in others:
            if other in row:
                found = row[other]
                cells += [f"{found['seconds']:.3f}", f"{found['gigabytes']:.1f}", f"{found['ratio']:.2f}"]
            else:
                cells += ["", "", ""]
        print("| " + " | ".join(cells) + " |")


class _Worker:
    """A process that does one piece of work at a time."""

    def __init__(self, kind, variant: str, name: str, weights: str):
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, kind, variant, name, weights))
        self._process.start()
        self._pipe.recv()  # ready

    def ask(self, *request) -> tuple:
        """(result, seconds, system seconds, minor page faults, gigabytes at the peak so far)."""
        self._pipe.send(request)
        answer = self._pipe.recv()
        if isinstance(answer, str):
            sys.exit(f"a worker failed: {answer}")
        return answer

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _agree(case: str, results: dict[str, np.ndarray]) -> None:
    ours = results["ours"]
    for variant, found in results.items():
        distance = float(np.abs(np.asarray(found) - ours).max())
        if distance > 1e-4 * max(1.0, float(np.abs(ours).max())):
            sys.exit(f"{case}: {variant} is {distance:.1e} away from ours")
        print(f"{case}: {variant} is {distance:.1e} away from ours", file=sys.stderr)


def _summary(found: dict[str, list[tuple]], variant: str) -> dict:
    seconds = [row[0] for row in found[variant]]
    ratios = [their / our[0] for their, our in zip(seconds, found["ours"], strict=True)]
    medians = [statistics.median(row[place] for row in found[variant]) for place in range(3)]
    names = ("seconds", "system_seconds", "page_faults")
    peak = max(row[3] for row in found[variant])
    return {
        **dict(zip(names, medians, strict=True)),
        "gigabytes": peak,
        "ratio": statistics.median(ratios),
        "rounds": seconds,
    }


def _one_a_length(rounds: list[tuple]) -> list[tuple]:
    """The first arguments of each division into groups of a length: each takes other programs."""
    if not isinstance(rounds[0][-1], list):
        return [rounds[0]]

    def groups(texts: list[str]) -> tuple:
        return tuple((len(rows), length) for rows, length in by_length(lengths(tokenize(texts), END), 77, BATCH))

    return list({groups(row[-1]): row for row in reversed(rounds)}.values())


def _captions(data: str, count: int) -> list[str]:
    """That many captions in a fixed order."""
    random = np.random.default_rng(0)
    if data:
        from clipjax.data.sources import open_source

        source = open_source(tuple(data.split(",")), DataConfig())
        return [source[int(index)].captions[0] for index in random.choice(len(source), count)]
    counts = random.choice(CAPTION_TOKENS, count) - 2
    return [" ".join(random.choice(WORDS, size)) for size in counts]


def _alone(function, *arguments) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise subprocess.CalledProcessError(process.exitcode, function.__name__)


if __name__ == "__main__":
    begin = time.monotonic()
    main()
    print(f"{time.monotonic() - begin:.0f} s in all", file=sys.stderr)
