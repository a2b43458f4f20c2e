"""The nine models at full size with random weights, carried to other programs and back: how far features move.

    python benchmarks/parity.py [MODEL …] --out=parity.json       in an environment with torch, open_clip, transformers

For each model and program, both directions: theirs is made there and read here, ours is drawn here and read there.
Both sides encode the same two pictures of noise and four texts in float32; numbers that are constant at first (norms,
biases, averages) are random too. Each side runs in a process of its own, so
that memory stays bounded by one model; RN50x64 takes about 8 GB. What --out holds already is kept, and what is not in
it is done: start again to go on. The table of all that is known is printed at the end.
"""

import argparse
import json
import multiprocessing
import pathlib
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from clipjax.config import preset
from clipjax.text import tokenize

MODELS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
CAPTIONS = ["", "a photo of a cat", "Hello World! It is 2024-01-15, and 100% of it is true.", "a long one " * 30]
COLUMNS = ("model", "program", "direction", "image", "text", "two pictures", "seconds", "gigabytes")
GAIN = 6**0.5  # with torch's initial convolutions nothing of a picture comes through a ResNet


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all if none is given")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a JSON file of the results so far")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for name in args.models or MODELS:
        for program in ("open_clip", "transformers") if preset(name).image.kind == "vit" else ("open_clip",):
            for direction in ("theirs → ours", "ours → theirs"):
                if any((row["model"], row["program"], row["direction"]) == (name, program, direction) for row in rows):
                    continue
                rows.append(measure(name, program, direction))
                args.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
                print(line(rows[-1]), file=sys.stderr)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    print("\n".join(line(row) for row in sorted(rows, key=lambda row: MODELS.index(row["model"]))))


def measure(name: str, program: str, direction: str) -> dict:
    """One row of the table: the largest difference of an element of the unit features, and that of two pictures."""
    begin = time.monotonic()
    makes, reads = (there_makes, here_reads) if direction == "theirs → ours" else (here_makes, there_reads)
    with tempfile.TemporaryDirectory() as folder:
        there, peak_of_one = alone(makes, name, program, folder)
        here, peak_of_other = alone(reads, name, program, folder)
    image, text = (float(np.abs(one - other).max()) for one, other in zip(there, here, strict=True))
    peak = max(peak_of_one, peak_of_other)
    apart = float(np.abs(there[0][0] - there[0][1]).max())
    values = (name, program, direction, image, text, apart, round(time.monotonic() - begin), round(peak, 1))
    return dict(zip(COLUMNS, values, strict=True))


def line(row: dict) -> str:
    """A row as Markdown."""
    cells = [f"{value:.1e}" if key in COLUMNS[3:6] else str(value) for key, value in row.items()]
    return "| " + " | ".join(cells) + " |"


def alone(function, *arguments):
    """(what the function returns, gigabytes at its peak), from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, *arguments).result()


def _with_peak(function, *arguments):
    result = function(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [2, size, size, 3] float32 of coarse and fine noise, and tokens [4, 77]."""
    size, random = preset(name).image.image_size, np.random.default_rng(0)
    coarse = random.standard_normal((2, -(-size // 32), -(-size // 32), 3), np.float32)
    pixels = coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :size, :size]
    return pixels + random.standard_normal(pixels.shape, np.float32), tokenize(CAPTIONS)


# -- this program


def here_makes(name: str, program: str, folder: str):
    """Draw a model here, write it for the program; unit features."""
    from clipjax import Bundle
    from clipjax.bundle import abstract_module, merge
    from clipjax.config import Config
    from clipjax.models.initialise import draw
    from clipjax.trees import unflatten

    config = Config(model=preset(name))
    halves = [draw(half, 0) for half in abstract_module(config)[1:]]
    for half in halves:
        for index, (path, leaf) in enumerate(half.items()):
            if path.endswith(("scale", "bias", "mean", "var")) and leaf.ndim:
                leaf += np.random.default_rng(index).uniform(-0.1, 0.3, leaf.shape).astype(np.float32)
            elif "conv" in path:
                leaf *= GAIN
    bundle = Bundle(merge(config, *map(unflatten, halves)), config, name=name)
    bundle.save(f"{folder}/model", {"open_clip": "open_clip", "transformers": "huggingface"}[program])
    return _here(bundle, name)


def here_reads(name: str, program: str, folder: str):
    """Load here what the program wrote; unit features."""
    from clipjax import load

    return _here(load(f"{folder}/model", activation="quick_gelu"), name)


def _here(bundle, name: str):
    pixels, _ = inputs(name)
    return bundle.encode_pixels(pixels), bundle.encode_text(CAPTIONS)


# -- the others


def there_makes(name: str, program: str, folder: str):
    """Make a random model there and save it; unit features."""
    import torch

    torch.manual_seed(0)
    model = _open_clip(name) if program == "open_clip" else _transformers(name)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(torch.rand_like(tensor) * 0.4 - 0.1)
            elif tensor.ndim == 4 and program == "open_clip" and preset(name).image.kind == "resnet":
                tensor.mul_(GAIN)
    if program == "open_clip":
        torch.save(model.state_dict(), f"{folder}/model")
    else:
        model.save_pretrained(f"{folder}/model")
    return _there(model, name, program)


def there_reads(name: str, program: str, folder: str):
    """Load there what was written here; unit features."""
    if program == "open_clip":
        import open_clip

        model = open_clip.create_model(f"local-dir:{folder}/model")
    else:
        from transformers import CLIPModel

        model = CLIPModel.from_pretrained(f"{folder}/model")
    return _there(model, name, program)


def _open_clip(name: str):
    import open_clip

    name = name.replace("/", "-").removesuffix("px").replace("@", "-")
    return open_clip.create_model(f"{name}-quickgelu")


def _transformers(name: str):
    from transformers import CLIPConfig, CLIPModel

    def tower(width, layers, heads, **sizes):
        sizes |= {"hidden_size": width, "intermediate_size": 4 * width, "hidden_act": "quick_gelu"}
        return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads}

    model = preset(name)
    image, text = model.image, model.text
    return CLIPModel(
        CLIPConfig(
            text_config=tower(text.width, text.layers, text.heads, eos_token_id=49407),
            vision_config=tower(
                image.width, image.layers, image.heads, image_size=image.image_size, patch_size=image.patch_size
            ),
            projection_dim=model.embed_dim,
        )
    )


def _there(model, name: str, program: str):
    import torch

    pixels, tokens = inputs(name)
    images, texts = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(tokens)
    model.eval()
    with torch.no_grad():
        if program == "open_clip":
            found = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
        else:
            found = model(pixel_values=images, input_ids=texts.long())
            found = found.image_embeds, found.text_embeds
    return tuple(rows.numpy() for rows in found)


if __name__ == "__main__":
    main()
