"""What the commands take: the larger argument lists, one function a command or option."""

import argparse

from clipjax.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors."""

    def error(self, message: str):
        """Raise UserError."""
        raise UserError(f"{message}. See {self.prog} --help.")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return whole(text, 1)


def whole(text: str, least: int = 0) -> int:
    """A whole number of at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number of at least {least}")
    return int(text)


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config=FILE`, and `--config.KEY=VALUE` for whatever the file sets otherwise."""
    parser.add_argument("--config", required=True, metavar="FILE", help="a Python file with get_config()")
    parser.add_argument(
        "--config.KEY=VALUE", dest="_", action="store_true", help="override one key, such as --config.batch_size=64"
    )
    parser.set_defaults(function_takes_overrides=True)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` and `clipjax-evaluate` take."""
    checkpoint_argument(parser)
    parser.add_argument("--data", required=True, action="append", help="a folder to score; may be given several times")
    parser.add_argument("--out", required=True, help="where report.json and report.html go")
    parser.add_argument(
        "--batch-size", type=positive, default=64, help="pictures encoded at a time (default %(default)s)"
    )


def interpolate_arguments(parser: argparse.ArgumentParser) -> None:
    """What `interpolate` takes."""
    parser.add_argument("zero", metavar="ZERO", help="the checkpoint before fine-tuning: alpha 0")
    parser.add_argument("fine", metavar="FINE", help="the checkpoint after it: alpha 1")
    parser.add_argument("--data", action="append", default=[], help="a folder to score; may be given several times")
    parser.add_argument("--out", help="where report.json and report.html go")
    parser.add_argument("--alphas", metavar="LIST", help="which models to score (default 0,0.1,0.2 and so on to 1)")
    parser.add_argument("--save", metavar="DST", help="write the model of --alpha as a checkpoint")
    parser.add_argument("--alpha", type=float, default=0.5, help="the model to save (default %(default)s)")
    activation_argument(parser)


def checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint`, and `--activation` beside it."""
    parser.add_argument("--checkpoint", required=True, help="a run, a checkpoints/STEP of it, weights, hf:OWNER/NAME")
    activation_argument(parser)


def activation_argument(parser: argparse.ArgumentParser) -> None:
    """`--activation`, for weights that do not say it."""
    parser.add_argument(
        "--activation", choices=["quick_gelu", "gelu"], help="what a bare file of weights does not say of itself"
    )


def embed_arguments(parser: argparse.ArgumentParser) -> None:
    """What `embed` takes."""
    checkpoint_argument(parser)
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="SOURCE",
        help="a folder of pictures, tars, a table, whatever training reads; may be given several times",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="FILE.npz or FILE.parquet; again after a stop: it goes on"
    )
    parser.add_argument("--texts", action="store_true", help="embed the captions too")
    parser.add_argument(
        "--batch-size", type=positive, default=64, help="pictures encoded at a time on a device (default %(default)s)"
    )
    parser.add_argument("--image-key", default="", help="column or extension of the pictures, if not a usual one")
    parser.add_argument("--caption-key", default="", help="column, extension or JSON key of the captions, the same")


def search_arguments(parser: argparse.ArgumentParser) -> None:
    """What `search` takes."""
    parser.add_argument("--embeddings", required=True, metavar="FILE", help="what `clipjax embed` wrote")
    checkpoint_argument(parser)
    parser.add_argument("--text", action="append", default=[], help="what to look for; may be given several times")
    parser.add_argument("--image", action="append", default=[], metavar="PATH", help="a picture to find the like of")
    parser.add_argument("--count", type=positive, default=20, help="pictures to show for each (default %(default)s)")
    parser.add_argument("--out", required=True, metavar="PAGE.html", help="the page to draw")
    parser.add_argument(
        "--data", action="append", default=[], metavar="SOURCE", help="where the pictures lie now, if they were moved"
    )


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """What `plan` takes."""
    config_arguments(parser)
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="the machine: v5e:16x16, v5p:4x4x4, cpu:8; here: this one"
    )
    parser.add_argument("--search", action="store_true", help="try meshes, micro-batches and remat, print the best")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--price-per-chip-hour", type=float, metavar="X", help="price the config's whole run")
