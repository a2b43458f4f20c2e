"""Live parity with open_clip, where it and torch are installed: its models here, our folders there."""

import json

import numpy as np
import pytest

from clipjax import load
from clipjax.bundle import Bundle
from clipjax.errors import UserError

REASON = "torch and open_clip are not installed; tests/weights/test_openai.py has outputs that the release once gave"
torch = pytest.importorskip("torch", reason=REASON)
open_clip = pytest.importorskip("open_clip", reason=REASON)

CAPTIONS = ["a photo of a cat", "Hello World!", "2024-01-15, 100% sure"]
WORDS = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
TOWERS = {
    "vit": {"image_size": 32, "layers": 2, "width": 128, "head_width": 64, "patch_size": 16},
    "resnet": {"image_size": 64, "layers": [2, 1, 1, 1], "width": 8, "head_width": 64, "patch_size": None},
}


@pytest.fixture(scope="module", params=[("vit", True), ("vit", False), ("resnet", True)], ids=str)
def theirs(request):
    """(model of random numbers, its config) of either family, with either activation."""
    tower, quick = request.param
    config = {"embed_dim": 24, "quick_gelu": quick, "vision_cfg": TOWERS[tower], "text_cfg": WORDS}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.05)  # upwards, so that variances stay positive
    return model, config


def _save(model, config, folder):
    """What open_clip's own push to the Hub writes, less the tokenizer."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")


def _compare(bundle: Bundle, model):
    size = bundle.config.model.image.image_size
    pixels = np.random.default_rng(0).standard_normal((3, size, size, 3), np.float32)
    tokens = bundle.tokenize(CAPTIONS)
    with torch.no_grad():
        images, texts, scale = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(tokens))
    np.testing.assert_allclose(bundle.encode_pixels(pixels), images.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(bundle.encode_text(CAPTIONS), texts.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(bundle.logit_scale, float(scale), rtol=1e-6)


def test_a_folder_of_open_clip_gives_its_features_here_and_ours_loads_there(theirs, tmp_path):
    model, config = theirs
    _save(model, config, tmp_path)
    bundle = load(tmp_path)
    _compare(bundle, model)
    bundle.save(tmp_path / "ours", "open_clip")
    again = open_clip.create_model(f"local-dir:{tmp_path}/ours").eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor) or key.endswith("num_batches_tracked"), key
    _compare(bundle, again)


def test_a_custom_text_model_has_other_keys_and_the_same_features(theirs, tmp_path):
    model, config = theirs
    custom = open_clip.model.CustomTextCLIP(**config).eval()
    custom.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(model.state_dict()))
    _save(custom, {**config, "custom_text": True}, tmp_path)
    _compare(load(tmp_path), model)


def test_a_bare_training_checkpoint_needs_its_activation(theirs, tmp_path):
    model, config = theirs
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {}}, tmp_path / "epoch_1.pt")
    with pytest.raises(UserError, match="does not say which activation"):
        load(tmp_path / "epoch_1.pt")
    _compare(load(tmp_path / "epoch_1.pt", activation="quick_gelu" if config["quick_gelu"] else "gelu"), model)
