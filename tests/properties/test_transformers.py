"""Live parity with transformers, where it and torch are installed: its folders here, ours there."""

import numpy as np
import pytest
from PIL import Image

from clipjax import Bundle, load, text

REASON = "torch and transformers are not installed; tests/weights/test_huggingface.py reads what they once wrote"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

CAPTIONS = ["a photo of a cat", "Hello World!", "2024-01-15, 100% sure"]


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def theirs(request):
    """A small CLIPModel of random numbers with CLIP's vocabulary."""
    towers = dict(intermediate_size=128, num_hidden_layers=2, hidden_act=request.param)
    config = transformers.CLIPConfig(
        text_config=dict(towers, hidden_size=32, num_attention_heads=2, max_position_embeddings=20),
        vision_config=dict(towers, hidden_size=32, num_attention_heads=4, image_size=32, patch_size=8),
        projection_dim=24,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)) for _ in range(3)]


def _features(model, pixels, tokens):
    """Unit rows of transformers' model for pixels [n, height, width, 3] and ids [n, L] padded by zeros."""
    with torch.no_grad():
        found = model(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        )
    return found.image_embeds.numpy(), found.text_embeds.numpy(), found.logits_per_image.numpy()


def _compare(bundle: Bundle, model, pictures):
    pixels = np.stack([bundle.preprocess(picture) for picture in pictures])
    images, texts, logits = _features(model, pixels, bundle.tokenize(CAPTIONS))
    ours = bundle.encode_image(pictures), bundle.encode_text(CAPTIONS)
    np.testing.assert_allclose(ours[0], images, atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours[1], texts, atol=1e-5, rtol=0)
    np.testing.assert_allclose(bundle.logit_scale * ours[0] @ ours[1].T, logits, atol=2e-4, rtol=0)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "1MB"}], ids=["whole", "shards"])
def test_a_folder_that_transformers_saves_gives_its_features(options, theirs, pictures, tmp_path):
    theirs.save_pretrained(tmp_path, **options)
    _compare(load(tmp_path), theirs, pictures)


def test_a_folder_that_is_written_here_loads_there(theirs, pictures, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    bundle = load(tmp_path / "theirs")
    bundle.save(tmp_path / "ours", "huggingface")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "ours").eval()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    _compare(bundle, model, pictures)
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "ours")
    found = processor(text=CAPTIONS, images=pictures, return_tensors="pt", padding=True)
    for row, caption in zip(found["input_ids"].tolist(), CAPTIONS, strict=True):
        ids = [text.START, *text.encode(caption), text.END]
        assert row[: len(ids)] == ids and set(row[len(ids) :]) <= {text.END}
    pixels = np.stack([bundle.preprocess(picture) for picture in pictures])
    difference = np.abs(found["pixel_values"].numpy().transpose(0, 2, 3, 1) - pixels)
    assert difference.max() < 0.016  # its resize rounds a pixel to the next grey level now and then


def test_what_transformers_saves_again_is_read_again(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    load(tmp_path / "theirs").save(tmp_path / "ours", "huggingface")
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "theirs")
    bundle = load(tmp_path / "theirs")
    assert bundle.config.model == load(tmp_path / "ours").config.model
