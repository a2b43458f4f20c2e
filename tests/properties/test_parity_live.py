"""Live parity with open_clip's own reader of released files, and whether the committed numbers are still its own."""

import importlib.util
import pathlib

import numpy as np
import pytest

from clipjax import load
from clipjax.bundle import abstract_module
from clipjax.config import Config, ImageConfig, ModelConfig, TextConfig
from clipjax.models.initialise import draw
from clipjax.models.stacking import unstack_layers
from clipjax.weights import Weights, write

REASON = "torch and open_clip are not installed; test_parity.py has numbers that they once gave"
torch = pytest.importorskip("torch", reason=REASON)
open_clip = pytest.importorskip("open_clip", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")

SCRIPT = pathlib.Path(__file__).parents[1] / "fixtures/make_open_clip.py"
FOLDER = SCRIPT.with_name("open_clip")
TEXT = TextConfig(context_length=12, width=128, layers=2, heads=2)
IMAGES = {
    "vit": ImageConfig(image_size=32, patch_size=16, width=128, layers=2, heads=2),
    "resnet": ImageConfig(image_size=64, patch_size=32, width=8, layers=0, heads=4, kind="resnet", stages=(2, 1, 1, 1)),
}
CAPTIONS = ["a photo of a cat", "Hello World!", "2024-01-15, 100% sure"]


@pytest.fixture(scope="module")
def script():
    """tests/fixtures/make_open_clip.py as a module."""
    spec = importlib.util.spec_from_file_location("make_open_clip", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=IMAGES)
def ours(request):
    """A small model of this program, drawn and a little changed."""
    model = ModelConfig(preset="", embed_dim=24, image=IMAGES[request.param], text=TEXT)
    _, *parts = abstract_module(Config(model=model))
    stacked = {path: leaf for part in parts for path, leaf in draw(part, 0).items()}
    random = np.random.default_rng(0)
    arrays = {  # no constants, and numbers of float16, in which open_clip's reader keeps a release for a while
        path: np.asarray(leaf + random.uniform(0, 0.05, leaf.shape), np.float16).astype(np.float32)
        for path, leaf in unstack_layers(stacked).items()
    }
    return Weights(arrays, model, "ours", (), "orbax")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_committed_numbers_are_open_clips(kind, script):
    wanted = dict(np.load(FOLDER / f"{kind}.npz"))
    found = script.outputs(script.make_model(kind), {name: wanted[name] for name in ("pixels", "tokens")})
    assert found.keys() | {"pixels", "tokens"} == wanted.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def compare(bundle, model):
    size = bundle.config.model.image.image_size
    pixels = np.random.default_rng(0).standard_normal((3, size, size, 3), np.float32)
    with torch.no_grad():
        images = model.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), normalize=True)
        texts = model.encode_text(torch.from_numpy(bundle.tokenize(CAPTIONS)), normalize=True)
    np.testing.assert_allclose(bundle.encode_pixels(pixels), images.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(bundle.encode_text(CAPTIONS), texts.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(bundle.logit_scale, float(model.logit_scale.detach().exp()), rtol=1e-6)


def test_open_clip_reads_the_file_that_is_written_here_as_a_release(ours, tmp_path):
    write("openai", tmp_path / "ours.pt", ours)
    compare(
        load(tmp_path / "ours.pt", activation="quick_gelu"),
        open_clip.load_openai_model(str(tmp_path / "ours.pt"), device="cpu", precision="fp32"),
    )


@pytest.mark.parametrize("form", ["script", "trace"])
def test_a_torchscript_archive_gives_the_features_of_its_model(ours, form, tmp_path):
    write("openai", tmp_path / "ours.pt", ours)
    model = open_clip.load_openai_model(str(tmp_path / "ours.pt"), device="cpu", precision="fp32")
    for name in ("input_resolution", "context_length", "vocab_size"):  # what tells that it is a release
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(12))
    if form == "script":
        archive = torch.jit.script(model)
    else:
        size = ours.model.image.image_size
        example = (torch.ones(2, 3, size, size), torch.ones(2, 12, dtype=torch.int))
        archive = torch.jit.trace_module(model, {"forward": example}, check_trace=False)
    archive.save(str(tmp_path / "archive.pt"))
    compare(load(tmp_path / "archive.pt"), model)
