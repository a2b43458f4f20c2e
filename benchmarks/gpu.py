"""Training steps on one GPU: pairs a second, peak memory, and utilisation against what its matrix products reach.

    python benchmarks/gpu.py [--models=ViT-B/32,ViT-B/16,ViT-L/14,RN50] [--batch=32768] [--rows=0] [--remat=none]

Two rows a model, in bfloat16: a batch as large as the memory holds (--rows: one of that size), and --batch in
micro-batches of the largest power of two of these. Where torch with CUDA and open_clip are installed, a third:
open_clip's own step (autocast to bfloat16, fused AdamW), at the same batch or the largest that fits there. Each figure
is the median of --steps steps after two others, on a batch that lies on the device: reading data is not part of it
(benchmarks/loader.py measures that). Once steps have taken 20 s together, no more are made: of a model's batch of
32,768 there are one to three, and the last of them counts.

Utilisation is 3 times the operations of a forward pass (models/flops.py), texts of the whole context, over the time and
the rate of a large bfloat16 matrix product on the same card; what is computed a second time (remat, and the first of
the two passes over micro-batches) does not count as work. Every figure comes from a process of its own. Without a GPU
it runs too, for tests: --models=tiny --batch=32 --rows=16 --side=64.
"""

import argparse
import concurrent.futures
import importlib.util
import multiprocessing
import os
import statistics
import time

import numpy as np

WARM_UP, LONG = 2, 20.0  # steps, seconds


def main(arguments=None) -> None:
    """Measure the models asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ViT-B/32,ViT-B/16,ViT-L/14,RN50", help="presets (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32_768, help="the batch that is accumulated")
    parser.add_argument("--remat", default="none", help="as in the config")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", default="0", help="the batch at once, for each model (0: what the memory holds)")
    parser.add_argument("--side", type=int, default=8192, help="of the square matrices")
    args = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # nothing else runs beside each process
    device, rate = _alone(matrix_rate, args.side)
    print(f"{device}: {rate / 1e12:.4g} TFLOP/s in bfloat16 products of {args.side} x {args.side}\n")
    print("model     program     batch  at once   pairs/s   step s  peak GB  utilisation")
    models, asked = args.models.split(","), [int(rows) for rows in args.rows.split(",")]
    for name, rows in zip(models, asked if len(asked) > 1 else asked * len(models), strict=True):
        rows = rows or _alone(largest_batch, name, args.remat)
        _print(name, "clipjax", rows, rows, rate, _alone(our_steps, name, rows, rows, args.remat, args.steps))
        part = min(1 << rows.bit_length() - 1, args.batch)
        while (found := _alone(our_steps, name, args.batch, part, args.remat, args.steps)) is None:
            part //= 2  # the pictures of the whole batch lie there as well
        _print(name, "clipjax", args.batch, part, rate, found)
        if all(importlib.util.find_spec(module) for module in ("torch", "open_clip")):
            if found := _alone(their_steps, name, rows, args.steps):
                *found, rows = found
                _print(name, "open_clip", rows, rows, rate, found)


def matrix_rate(side: int) -> tuple[str, float]:
    """(what the device is, FLOP/s of the product of two bfloat16 matrices of that side)."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda x, y: (x @ y) * jnp.bfloat16(side**-0.5))  # neither grows nor vanishes
    x, y = jax.random.normal(jax.random.key(0), (2, side, side), jnp.bfloat16)
    seconds, chain = [], 10
    for _ in range(WARM_UP + 5):
        begin = time.perf_counter()
        for _ in range(chain):
            x = product(x, y)
        x.block_until_ready()
        seconds.append((time.perf_counter() - begin) / chain)
    return jax.devices()[0].device_kind, 2 * side**3 / statistics.median(seconds[WARM_UP:])


def largest_batch(name: str, remat: str, unit: int = 64, most: int = 16_384) -> int:
    """The largest multiple of `unit`, up to `most`, whose step the device holds: found by compiling, not by running.

    Memory is a straight line over the batch: it begins at parameters, moments and gradients, and a batch of a few units
    gives its slope.
    """
    from clipjax.errors import UserError
    from clipjax.training.memory import device_limit, program_bytes, shard_bytes
    from clipjax.training.program import step_arguments

    def compiled(rows):
        while True:
            config, mesh, optimizer = _setting(name, rows, rows, remat)
            try:
                return rows, _program(config, mesh, optimizer)
            except UserError:
                if rows == unit:
                    raise
                rows = max(rows * 15 // 16 // unit, 1) * unit

    config, mesh, optimizer = _setting(name, unit, unit, remat)
    if (limit := device_limit(mesh)) is None:
        return most
    begin = shard_bytes(step_arguments(config, optimizer, mesh, config.model.text.context_length)[0]) * 4 // 3
    few, program = compiled(4 * unit)
    rows = int((limit - begin) * few / (program_bytes(program) - begin))
    return compiled(max(min(rows, most) // unit, 1) * unit)[0]


def our_steps(name: str, batch: int, part: int, remat: str, steps: int) -> tuple[float, float] | None:
    """(seconds a step, peak bytes) of the step that `clipjax train` compiles; None where it does not fit."""
    import jax

    from clipjax.errors import UserError

    try:
        return _our_steps(name, batch, part, remat, steps)
    except UserError:
        return None
    except jax.errors.JaxRuntimeError as error:  # in pieces, memory holds less than it should
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def _our_steps(name, batch, part, remat, steps):
    import jax

    from clipjax.data.batch import Batch
    from clipjax.parallel.mesh import row_sharding
    from clipjax.training.memory import program_bytes
    from clipjax.training.state import init_state

    config, mesh, optimizer = _setting(name, batch, part, remat)
    program = _program(config, mesh, optimizer)
    state = init_state(config, optimizer, mesh)
    given = jax.device_put(Batch(*_pairs(config)), row_sharding(mesh))
    seconds = []
    while not _enough(seconds, steps):
        begin = time.perf_counter()
        state, metrics = program(state, given)
        if not np.isfinite(float(metrics["loss"])):
            raise RuntimeError(f"{name}: the loss is {metrics['loss']}")
        seconds.append(time.perf_counter() - begin)
    memory = jax.devices()[0].memory_stats() or {}
    return _median(seconds), memory.get("peak_bytes_in_use") or program_bytes(program)


def their_steps(name: str, rows: int, steps: int) -> tuple[float, float, int] | None:
    """(seconds a step, peak bytes, batch) of open_clip's step; None without CUDA."""
    import open_clip
    import torch

    if not torch.cuda.is_available():
        return None
    own = name.replace("/", "-").removesuffix("px").replace("@", "-")
    model = open_clip.create_model(f"{own}-quickgelu", device="cuda")
    while True:
        try:
            return *_their_steps(name, model, rows, steps), rows
        except torch.cuda.OutOfMemoryError:
            rows = rows * 7 // 8
        torch.cuda.empty_cache()


def _their_steps(name, model, rows, steps):
    import open_clip
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, fused=True)
    loss_of = open_clip.ClipLoss()
    images, tokens = (torch.from_numpy(x).cuda() for x in _pairs(_setting(name, rows, rows, "none")[0]))
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    while not _enough(seconds, steps):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
            loss = loss_of(*model(pixels, tokens.long()))
        loss.backward()
        optimizer.step()
        loss.item()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return _median(seconds), torch.cuda.max_memory_allocated()


def _enough(seconds, steps):
    return len(seconds) == WARM_UP + steps or sum(seconds) > LONG


def _median(seconds):
    """Of what came after the warm-up, or the last where nothing did."""
    return statistics.median(seconds[WARM_UP:] or seconds[-1:])


def _setting(name, batch, part, remat):
    """(config, mesh of one device, optimizer)."""
    import jax

    from clipjax.config import default_config, resolve
    from clipjax.parallel.mesh import make_mesh
    from clipjax.training.optimizer import make_optimizer

    config = default_config()
    config.model.preset, config.precision, config.remat = name, "bfloat16", remat
    config.batch_size, config.micro_batch_size, config.total_steps = batch, part, 1000
    config.optimizer.warmup_steps, config.data.train = 10, "none"
    config = resolve(config)
    return config, make_mesh(config.mesh, jax.devices()[:1]), make_optimizer(config)


def _program(config, mesh, optimizer):
    from clipjax.training.program import compile_step

    return compile_step(config, optimizer, mesh, config.model.text.context_length)


def _pairs(config):
    """Random pictures and texts of the whole context, as a Batch holds them."""
    random = np.random.default_rng(0)
    size, text, rows = config.model.image.image_size, config.model.text, config.batch_size
    images = random.integers(0, 256, (rows, size, size, 3), np.uint8)
    tokens = random.integers(1, text.end_token - 1, (rows, text.context_length), np.int32)
    tokens[:, -1] = text.end_token
    return images, tokens


def _print(name, program, batch, part, rate, found):
    from clipjax.config import preset
    from clipjax.models.flops import forward_flops

    if found is None:
        print(f"{name:9s} {program:9s} {batch:7d} {part:8d} does not fit into the memory", flush=True)
        return
    seconds, peak = found
    share = 3 * sum(forward_flops(preset(name))) * batch / seconds / rate
    figures = f"{batch / seconds:9.1f} {seconds:8.3f} {peak / 1e9:8.2f} {share:12.1%}"
    print(f"{name:9s} {program:9s} {batch:7d} {part:8d} {figures}", flush=True)


def _alone(function, *arguments):
    """The function's result from a process of its own, which gives all memory back."""
    from clipjax.parallel import runtime

    context = multiprocessing.get_context("spawn")
    # As the program starts: what one process has compiled the next one finds in the cache.
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=runtime.start) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
