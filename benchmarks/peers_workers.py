"""The processes of peers.py: one variant of one program each, loaded once, then a piece of work at a time.

A method of Encoding or Training takes a case's arguments and gives a function without arguments; only that is timed.
"""

import ctypes
import os
import resource
import time
import traceback

import numpy as np

BATCH, RATE, STEPS = 16, 1e-5, 1_000_000
GAIN = 6**0.5  # with torch's initial convolutions nothing of a picture comes through a ResNet


def serve(pipe, kind, variant: str, name: str, weights: str) -> None:
    """Answer each request (method, arguments …) with (result, seconds, system seconds, page faults, peak in GB)."""
    worker = kind(variant, name, weights)
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        try:
            work = getattr(worker, request[0])(*request[1:])
            before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            result = work()
            seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
        except Exception:
            pipe.send(traceback.format_exc())
            return
        faults = after.ru_minflt - before.ru_minflt
        pipe.send((np.asarray(result), seconds, after.ru_stime - before.ru_stime, faults, after.ru_maxrss / 2**20))


def write_weights(name: str, path: str) -> None:
    """A state dict of random numbers."""
    import torch

    torch.manual_seed(0)
    model = _create(name)
    for tensor in model.state_dict().values():
        if tensor.ndim == 4 and hasattr(model.visual, "attnpool"):
            tensor.mul_(GAIN)
        elif tensor.ndim == 1:
            tensor.add_(torch.rand_like(tensor) * 0.4 - 0.1)
    torch.save(model.state_dict(), path)


def Encoding(variant: str, name: str, weights: str):
    """Unit features of pictures and texts."""
    return _OurEncoding(weights) if variant == "ours" else _TheirEncoding(variant, name, weights)


def Training(variant: str, name: str, weights: str):
    """Steps of AdamW on the contrastive loss, one after the other; each gives the loss before it."""
    return _OurTraining(name, weights) if variant == "ours" else _TheirTraining(variant, name, weights)


class _OurEncoding:
    def __init__(self, weights: str):
        from clipjax import load
        from clipjax.parallel import runtime

        runtime.start()
        self.bundle = load(weights, activation="quick_gelu")

    def image(self, pixels):
        return lambda: self.bundle.encode_pixels(pixels)

    def text(self, captions):
        return lambda: self.bundle.encode_text(captions)


class _OurTraining:
    """The parts of `training/loop.py`, without its data, checkpoints and telemetry."""

    def __init__(self, name: str, weights: str):
        from clipjax.config import default_config, resolve
        from clipjax.parallel import runtime
        from clipjax.parallel.mesh import make_mesh
        from clipjax.training.optimizer import make_optimizer
        from clipjax.training.start import start_state

        runtime.start()
        config = default_config()
        config.model.preset, config.batch_size, config.total_steps = name, BATCH, STEPS
        config.optimizer.learning_rate, config.optimizer.warmup_steps = RATE, 0
        config.init_from, config.data.train = weights, "none"
        self.config = resolve(config)
        self.mesh, self.optimizer = make_mesh(self.config.mesh), make_optimizer(self.config)
        self.state = start_state(self.config, self.optimizer, self.mesh)
        self.programs = {}

    def train(self, images, captions):
        from clipjax.data.batch import Batch
        from clipjax.parallel.runtime import keep_freed_memory
        from clipjax.text import tokenize
        from clipjax.training.feed import Feed
        from clipjax.training.program import compile_step

        feed = Feed(self.config, self.mesh, np.arange(BATCH), iter([Batch(images, tokenize(captions))]), 1)
        if feed.length not in self.programs:
            keep_freed_memory()  # as the loop does
            self.programs[feed.length] = compile_step(self.config, self.optimizer, self.mesh, feed.length)
            keep_freed_memory()
        program = self.programs[feed.length]

        def work():
            self.state, metrics = program(self.state, feed.next(asked=False)[0])
            return float(metrics["loss"])

        return work


class _TheirEncoding:
    def __init__(self, variant: str, name: str, weights: str):
        self.torch, self.model = _loaded(variant, name, weights)
        self.layout = self.torch.channels_last if "channels last" in variant else self.torch.contiguous_format
        self.model.to(memory_format=self.layout)
        self.model.eval()

    def image(self, pixels):
        given = self._pixels(pixels)
        return lambda: self._encoded(self.model.encode_image, [given])

    def text(self, captions):
        from clipjax.text import tokenize

        tokens = self.torch.from_numpy(tokenize(captions))
        return lambda: self._encoded(self.model.encode_text, tokens.split(64))

    def _pixels(self, pixels):
        return self.torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)

    def _encoded(self, encode, parts):
        with self.torch.inference_mode():
            return np.concatenate([encode(part, normalize=True).numpy() for part in parts])


class _TheirTraining(_TheirEncoding):
    def __init__(self, variant: str, name: str, weights: str):
        import open_clip

        super().__init__(variant, name, weights)
        self.model.train()
        self.loss = open_clip.ClipLoss()
        kept = ("positional_embedding", "class_embedding", "logit_scale")  # with what has one axis: no decay, as ours
        parts = {True: [], False: []}
        for key, tensor in self.model.named_parameters():
            parts[tensor.ndim > 1 and not key.endswith(kept)].append(tensor)
        groups = [{"params": parts[True], "weight_decay": 0.2}, {"params": parts[False], "weight_decay": 0.0}]
        self.optimizer = self.torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def train(self, images, captions):
        from clipjax.config.model import OPENAI_MEAN, OPENAI_STD
        from clipjax.images.preprocess import normalize
        from clipjax.text import tokenize

        pixels = self._pixels(np.asarray(normalize(images, OPENAI_MEAN, OPENAI_STD)))
        tokens = self.torch.from_numpy(tokenize(captions))

        def work():
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(*self.model(pixels, tokens))
            loss.backward()
            self.optimizer.step()
            with self.torch.no_grad():
                self.model.logit_scale.clamp_(0, np.log(100))
            return float(loss.detach())

        return work


def _loaded(variant: str, name: str, weights: str):
    if "kept" in variant:
        _keep_freed_memory()
    import torch

    torch.set_num_threads(os.cpu_count())
    model = _create(name)
    model.load_state_dict(torch.load(weights))
    return torch, model


def _create(name: str):
    import open_clip

    name = name.replace("/", "-").removesuffix("px").replace("@", "-")
    return open_clip.create_model(f"{name}-quickgelu")


def _keep_freed_memory() -> None:
    """glibc keeps what is freed, in one arena for all threads, which torch's workers need (see parallel/runtime.py)."""
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    for parameter, value in ((-8, 1), (-4, 0), (-1, -1)):  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
        mallopt(parameter, value)
