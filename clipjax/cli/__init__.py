"""The command line: parse, call one function, print. Exit codes: 0 done, 1 our fault, 2 user's mistake, 75 stopped."""

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence

from clipjax.cli import arguments
from clipjax.errors import UserError
from clipjax.progress import say

_STOPPED = 75


def main(argv: Sequence[str] | None = None) -> int:
    """`clipjax COMMAND …`; returns the exit code."""
    return _run(_parser(), argv)


def evaluate_main(argv: Sequence[str] | None = None) -> int:
    """`clipjax-evaluate …`: the evaluation alone; it loads no training code."""
    parser = arguments.Parser(prog="clipjax-evaluate", description=_evaluate.__doc__, allow_abbrev=False)
    arguments.evaluate_arguments(parser)
    parser.set_defaults(function=_evaluate)
    return _run(parser, argv)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(prog="clipjax", description="Train, adapt and evaluate CLIP in JAX.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=arguments.Parser)

    def add(name: str, function, example: str):
        command = commands.add_parser(
            name,
            help=function.__doc__,
            description=function.__doc__,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(function=function)
        return command

    command = add(
        "train", _train, "clipjax train --config=configs/demo.py --workdir=runs/demo --config.total_steps=100"
    )
    arguments.config_arguments(command)
    command.add_argument("--workdir", required=True, help="where the run lives; a run found there goes on")

    command = add("evaluate", _evaluate, "clipjax evaluate --checkpoint=runs/demo --data=photos --out=report")
    arguments.evaluate_arguments(command)

    command = add("interpolate", _interpolate, "clipjax interpolate runs/base runs/tuned --data=pets --out=between")
    arguments.interpolate_arguments(command)

    command = add("convert", _convert, "clipjax convert ViT-B-32.pt clip-vit-base-patch32 --to=huggingface")
    command.add_argument("source", metavar="SRC", help="a checkpoint, a file or folder of weights, or hf:OWNER/NAME")
    command.add_argument("destination", metavar="DST", help="the new file (openai) or folder (all others)")
    command.add_argument(
        "--to", required=True, metavar="FORMAT", help="orbax, flax, huggingface, openai, open_clip, onnx or stablehlo"
    )
    arguments.activation_argument(command)

    command = add("embed", _embed, "clipjax embed --checkpoint=runs/demo --data=photos --out=photos.npz")
    arguments.embed_arguments(command)

    command = add(
        "search",
        _search,
        "clipjax search --embeddings=photos.npz --checkpoint=runs/demo --text='a red circle' --out=found.html",
    )
    arguments.search_arguments(command)

    command = add("prepare", _prepare, "clipjax prepare demo --out=runs/demo/data")
    command.add_argument("name", choices=["demo"], help="the data set to make")
    command.add_argument("--out", required=True, help="the folder to write")
    command.add_argument("--seed", type=arguments.whole, default=0)

    command = add("inspect", _inspect, "clipjax inspect --config=configs/flickr8k.py --config.data.train='D/*.tar'")
    arguments.config_arguments(command)

    command = add("plan", _plan, "clipjax plan --config=configs/vit_l14.py --topology=v5e:16x16 --config.mesh.fsdp=16")
    arguments.plan_arguments(command)

    add("models", _models, "clipjax models")
    return parser


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax's warnings concern no user, its errors are raised, too
    try:
        args, rest = parser.parse_known_args(argv)
        args.overrides = [item for item in rest if item.startswith("--config.")]
        surplus = [item for item in rest if item not in args.overrides or not hasattr(args, "config")]
        if surplus and (bare := next((item for item in args.overrides if "=" not in item), None)):
            raise UserError(f"{bare}: its value should follow after an equals sign: {bare}={surplus[0]}.")
        if surplus:
            named = f"{parser.prog} {getattr(args, 'command', '')}".strip()
            raise UserError(f"{surplus[0]}: not an option of this command. See {named} --help.")
        return args.function(args) or 0
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130


def _train(args) -> int:
    """Train a model from a config; started again, it goes on."""
    config = _resolved(args)
    _start()
    from clipjax.training.loop import Stopped, train

    try:
        train(config, args.workdir)
    except Stopped as stopped:
        say(f"{stopped}")
        return _STOPPED
    return 0


def _evaluate(args) -> None:
    """Score a checkpoint on folders of pictures, and write report.json and report.html."""
    _start()
    from clipjax.evaluation.suite import evaluate

    for row in evaluate(args.checkpoint, args.data, args.out, batch_size=args.batch_size, activation=args.activation):
        print(f"{row.dataset}  {row.metric}  {row.value:.4f}  [{row.low:.4f}, {row.high:.4f}]  n={row.n}")
    print(f"report: {pathlib.Path(args.out) / 'report.html'}")


def _interpolate(args) -> None:
    """Score the models between two checkpoints (WiSE-FT), and write one of them."""
    if bool(args.data) != bool(args.out) or not (args.data or args.save):
        raise UserError("interpolate: give --data and --out to score, or --save to write a model, or all of them.")
    _start()
    from clipjax.bundle import load
    from clipjax.evaluation.interpolate import ALPHAS, interpolate, mixtures, parse_alphas

    alphas = parse_alphas(args.alphas) if args.alphas else ALPHAS
    zero, fine = (load(source, activation=args.activation) for source in (args.zero, args.fine))
    if args.data:
        made = interpolate(zero, fine, args.data, args.out, alphas=alphas)
        for row in made["results"]:
            print(f"{row['alpha']:<5g} {row['dataset']}  {row['metric']}  {row['value']:.4f}  n={row['n']}")
        print(f"report: {pathlib.Path(args.out) / 'report.html'}")
    if args.save:
        ((alpha, bundle),) = mixtures(zero, fine, [args.alpha])
        bundle.save(args.save)
        print(f"alpha {alpha:g}: {args.save}")


def _convert(args) -> None:
    """Write a model in the form of another program, and say how far its features moved."""
    _start()
    from clipjax.bundle import convert

    note = convert(args.source, args.destination, args.to, activation=args.activation)
    differences = ", ".join(
        f"{kind} features differ by {note[f'{kind}_difference']:.1e} of {note[f'{kind}_largest']:.2g}"
        for kind in ("image", "text")
    )
    print(f"{args.destination}: {args.to}, at most: {differences}; the note is stored with it (parity.json)")


def _embed(args) -> None:
    """Embed pictures: features and keys as npz or Parquet."""
    _start()
    from clipjax.evaluation.export import export

    options = {"texts": args.texts, "batch_size": args.batch_size}
    options |= {"image_key": args.image_key, "caption_key": args.caption_key}
    made = export(args.checkpoint, args.data, args.out, activation=args.activation, **options)
    captions = f" and {made['captions']:,} captions" if args.texts else ""
    print(f"{args.out}: {made['pictures']:,} pictures{captions}, {made['dimensions']} numbers each")
    if bad := made["unreadable"]:
        print(f"{len(bad):,} unreadable, all named in the file: {'; '.join(bad[:5])}{' …' * (len(bad) > 5)}")


def _search(args) -> None:
    """Find the pictures nearest to texts or pictures."""
    _start()
    from clipjax.evaluation.search import search

    options = {"texts": args.text, "images": args.image, "count": args.count, "out": args.out, "data": args.data}
    for found in search(args.embeddings, args.checkpoint, activation=args.activation, **options):
        print(found.query)
        for key, score in zip(found.keys, found.scores, strict=True):
            print(f"  {score:.4f}  {key}")
    print(f"page: {args.out}")


def _prepare(args) -> None:
    """Make the demo data set: drawn shapes with captions, in the layout of real data."""
    from clipjax.data.demo import prepare_demo

    made = prepare_demo(args.out, seed=args.seed)
    print(f"demo set in {args.out}: {made['pairs']:,} pairs in train/, {made['tests']} pictures in zeroshot/")
    print(f"held out of training: {', '.join(made['held_out'])}")


def _inspect(args) -> None:
    """Look at a config's data: counts, captions, sizes, failures."""
    from clipjax.data.inspect import inspect

    print(inspect(_resolved(args)))


def _plan(args) -> None:
    """Say whether a config fits a machine, and how fast it can be."""
    from clipjax.config import resolve
    from clipjax.config.files import read
    from clipjax.planning.plan import plan
    from clipjax.planning.search import search
    from clipjax.planning.table import as_json, table

    config = resolve(read(args.config, args.overrides))
    made = (search if args.search else plan)(config, args.topology)
    print((as_json if args.json else table)(made, args.price_per_chip_hour))


def _models(args) -> None:
    """List the models that there are, with their sizes."""
    from clipjax.models.catalogue import table

    print(table())


def _start() -> None:
    """Prepare the devices, for the commands that compute."""
    from clipjax.parallel import runtime

    runtime.start()


def _resolved(args):
    """The Config of `--config=FILE` and its overrides, printed."""
    from clipjax.config import as_json, resolve
    from clipjax.config.files import read

    config = resolve(read(args.config, args.overrides))
    say(as_json(config))
    return config
