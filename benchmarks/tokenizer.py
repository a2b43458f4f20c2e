"""Captions a second through the tokenizer, cleaning included: `python benchmarks/tokenizer.py [--captions=FILE]`."""

import argparse
import os
import random
import time
from pathlib import Path

from clipjax.text import decode, tokenize


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path, help="a text file, one caption a line; without it 40,000 are made up")
    parser.add_argument("--rounds", type=int, default=5, help="the first and the best are printed")
    args = parser.parse_args()
    texts = args.captions.read_text("utf-8").splitlines() if args.captions else made_up(40_000)
    tokenize(["a first call reads the vocabulary", "caf\u00e9 loads ftfy"])

    rounds = [passed(texts) for _ in range(args.rounds)]
    ascii_share = sum(text.isascii() for text in texts) / len(texts)
    print(f"{len(texts):,} captions, {ascii_share:.0%} plain ASCII, one thread, {os.cpu_count()} cores")
    for name, (wall, cpu) in [("first pass", rounds[0]), (f"best of {args.rounds}", min(rounds))]:
        print(f"{name}: {len(texts) / wall:,.0f} captions/s, {len(texts) / cpu:,.0f} a second of one core's time")


def passed(texts):
    """Seconds (wall, CPU) that one pass over all texts takes, in batches of 256."""
    wall, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), 256):
        tokenize(texts[first : first + 256])
    return time.perf_counter() - wall, time.process_time() - cpu


def made_up(count):
    """Captions of 5 to 20 words, the common ones often, a fifth with accents, curly quotes, emoji or html entities."""
    draw = random.Random(0)
    words = [decode([token]) for token in range(512, 49406)]
    words = [word.strip() for word in words if word.endswith(" ") and word.isascii() and word.strip().isalpha()]
    odd = [
        "caf\u00e9",
        "\u201cquoted\u201d",
        "don\u2019t",
        "\U0001f600",
        "&amp;",
        "\u6771\u4eac",
        "na\u00efve",
        "\u2014",
    ]
    captions = []
    for _ in range(count):
        caption = [words[int(draw.paretovariate(0.3)) % len(words)] for _ in range(draw.randint(5, 20))]
        if draw.random() < 0.2:
            caption.insert(draw.randrange(len(caption)), draw.choice(odd))
        captions.append(" ".join(caption).capitalize() + draw.choice([".", "", " !", " 2026"]))
    return captions


if __name__ == "__main__":
    main()
