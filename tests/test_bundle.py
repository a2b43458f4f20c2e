"""Bundles: unit rows that do not depend on batching or devices, and ensembles as the paper defines them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import clipjax
from clipjax import checkpoints, weights
from clipjax.bundle import Bundle, merge
from clipjax.config import MeshConfig, default_config, resolve
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import init_state


@pytest.fixture(scope="module")
def config():
    made = default_config()
    made.model.preset = "tiny"
    made.total_steps = 1
    return resolve(made)


@pytest.fixture(scope="module")
def state(config):
    return init_state(config, make_optimizer(config), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))


@pytest.fixture(scope="module")
def make(config, state):
    """A function that makes a Bundle of the fixture's parameters, on eight devices or on the mesh given."""
    params = jax.device_get(state.params)
    return lambda config=config, mesh=None: Bundle(merge(config, jax.tree.map(np.copy, params), {}), config, mesh=mesh)


@pytest.fixture(scope="module")
def bundle(make):
    return make()


@pytest.fixture(scope="module")
def workdir(config, state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    saver = checkpoints.Checkpoints(folder / "checkpoints", config)
    saver.save(5, state)
    saver.close()
    return folder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(5)]


def test_rows_are_unit_and_do_not_depend_on_the_batch(bundle, pictures):
    rows = bundle.encode_image(pictures)
    assert rows.shape == (5, 32) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([bundle.encode_image([item]) for item in pictures]), rows, atol=2e-6)


def test_one_device_and_eight_give_the_same_rows(bundle, make, pictures):
    alone = make(mesh=make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
    np.testing.assert_allclose(alone.encode_image(pictures), bundle.encode_image(pictures), atol=2e-6)
    np.testing.assert_allclose(alone.encode_text(["a", "b c"]), bundle.encode_text(["a", "b c"]), atol=2e-6)


def test_a_path_a_picture_and_an_array_are_the_same(bundle, pictures, tmp_path):
    image = Image.fromarray(pictures[0])
    image.save(tmp_path / "a.png")
    expected = bundle.encode_image([pictures[0]])
    for form in (tmp_path / "a.png", [str(tmp_path / "a.png")], image, [image], pictures[0], pictures[0][None]):
        np.testing.assert_array_equal(bundle.encode_image(form), expected)


def test_the_module_encodes_without_normalising(bundle, pictures):
    pixels = bundle.preprocess(pictures[0])
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.float32
    raw = np.asarray(bundle.model.encode_image(pixels[None]))
    np.testing.assert_allclose(raw / np.linalg.norm(raw), bundle.encode_image([pictures[0]]), atol=2e-6)
    tokens = bundle.tokenize("a cat")
    assert tokens.shape == (1, 16) and tokens.dtype == np.int32
    raw = np.asarray(bundle.model.encode_text(tokens))
    np.testing.assert_allclose(raw / np.linalg.norm(raw), bundle.encode_text("a cat"), atol=2e-6)


def test_nothing_encodes_to_no_rows(bundle):
    assert bundle.encode_image([]).shape == (0, 32)
    assert bundle.encode_text([]).shape == (0, 32)


def texts_of_many_lengths():
    """97 texts of 2 to more than 77 tokens, in no order, most of them short."""
    rng = np.random.default_rng(0)
    return [" ".join(["word"] * int(count)) for count in rng.integers(0, 90, 97) ** 3 // 90**2]


def test_texts_cut_to_their_batch_s_length_give_the_rows_of_uncut_ones(config):
    text = dataclasses.replace(config.model.text, context_length=77)
    long = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
    one = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = jax.device_get(init_state(long, make_optimizer(long), one).params)
    bundle = Bundle(merge(long, params, {}), long, mesh=one)
    texts, seen = texts_of_many_lengths(), []
    encode = bundle._encode
    bundle._encode = lambda program, tokens: (seen.append(tokens.shape), encode(program, tokens))[1]
    whole = np.asarray(bundle.model.encode_text(bundle.tokenize(texts)))
    whole = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(bundle.encode_text(texts), whole, rtol=0, atol=1e-6)
    assert [rows for rows, _ in seen] == [16, 16, 16, 16, 8, 8, 8, 8, 1]
    assert [length for _, length in seen] == [8, 8, 14, 28, 40, 64, 64, 77, 77]


def test_a_class_is_the_normalised_mean_of_its_prompts(bundle):
    names, templates = ["cat", ["dog", "hound"]], ["a {c}.", "the {c}"]
    rows = bundle.class_embeddings(names, templates)
    for row, group in zip(rows, (["cat"], ["dog", "hound"]), strict=True):
        mean = np.mean([bundle.encode_text(t.format(c=name))[0] for name in group for t in templates], axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=2e-6)


def test_classify_gives_the_softmax_of_scaled_cosines(bundle, pictures):
    found = bundle.classify(pictures, ["cat", "dog", "car"])
    cosines = bundle.encode_image(pictures) @ bundle.class_embeddings(["cat", "dog", "car"], ["a photo of a {c}."]).T
    weights = np.exp(cosines / 0.07)
    np.testing.assert_allclose(found, weights / weights.sum(1, keepdims=True), rtol=1e-3)
    assert found.shape == (5, 3) and found.dtype == np.float32


def test_a_template_without_a_place_for_the_name_is_refused(bundle):
    with pytest.raises(UserError, match="'a photo': has no {c}"):
        bundle.class_embeddings(["cat"], ["a photo"])


def test_the_fingerprint_follows_all_that_embeddings_depend_on(bundle, make, config):
    image = dataclasses.replace(config.model.image, mean=(0.5, 0.5, 0.5))
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, image=image))
    assert make().fingerprint == bundle.fingerprint
    assert make(other).fingerprint != bundle.fingerprint
    text = dataclasses.replace(config.model.text, end_token=5)
    heads = dataclasses.replace(config.model.image, heads=config.model.image.heads * 2)
    for part in ({"text": text}, {"image": heads}):
        model = dataclasses.replace(config.model, **part)
        assert make(dataclasses.replace(config, model=model)).fingerprint != bundle.fingerprint
    assert make(dataclasses.replace(config, precision="bfloat16")).fingerprint != bundle.fingerprint
    changed = make()
    changed.model.logit_scale[...] = 1.0
    assert Bundle(changed.model, config).fingerprint != bundle.fingerprint


def test_load_takes_a_run_or_one_step_of_it(workdir, bundle):
    whole, step = clipjax.load(workdir), clipjax.load(workdir / "checkpoints" / "5")
    assert whole.step == step.step == 5
    assert whole.fingerprint == step.fingerprint == bundle.fingerprint
    np.testing.assert_allclose(whole.encode_text("a cat"), bundle.encode_text("a cat"), atol=2e-6)
    assert whole.config.model.preset == "tiny"
    assert whole.logit_scale == pytest.approx(1 / 0.07)


def test_parameters_that_do_not_fit_the_model_are_listed(workdir, tmp_path):
    import json
    import shutil

    shutil.copytree(workdir / "checkpoints" / "5", tmp_path / "5")
    file = tmp_path / "5" / "metadata" / "metadata"
    metadata = json.loads(file.read_text())
    metadata["config"]["model"]["embed_dim"] = 48
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"image/projection/kernel is \(64, 32\), expected \(64, 48\); text/projection"):
        clipjax.load(tmp_path / "5")


def test_another_tokenizer_is_refused(workdir, tmp_path):
    import json
    import shutil

    shutil.copytree(workdir / "checkpoints" / "5", tmp_path / "5")
    file = tmp_path / "5" / "metadata" / "metadata"
    metadata = json.loads(file.read_text())
    metadata["tokenizer"]["sha256"] = "0"
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="tokenizer of sha256 0"):
        clipjax.load(tmp_path / "5")


def test_texts_are_refused_where_the_tokenizer_s_ids_are_no_rows_of_the_table(make, config):
    small = dataclasses.replace(config.model, text=dataclasses.replace(config.model.text, vocab_size=100, end_token=99))
    bundle = make()
    bundle.config = dataclasses.replace(config, model=small)
    with pytest.raises(UserError, match="a vocabulary of 100, CLIP's tokenizer needs 49408"):
        bundle.encode_text(["a"])


# --- every form of a checkpoint, in and out ---


@pytest.fixture(scope="module")
def saved(make, config, tmp_path_factory):
    """One model in all forms that can be read again: {format: path}."""
    folder, bundle = tmp_path_factory.mktemp("saved"), make()
    paths = {format: folder / f"model-{format}" for format in ("orbax", *weights.FORMATS)}
    for format, path in paths.items():
        bundle.save(path, format)
    return paths


@pytest.mark.parametrize("format", ["orbax", *weights.FORMATS])
def test_what_is_saved_loads_bit_for_bit(saved, bundle, format):
    loaded = clipjax.load(saved[format], activation="quick_gelu")
    assert loaded.config.model == bundle.config.model
    ours, theirs = bundle.weights().arrays, loaded.weights().arrays
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        assert np.array_equal(leaf, theirs[path]) and leaf.dtype == theirs[path].dtype, path


@pytest.mark.parametrize("format", ["orbax", *weights.FORMATS])
def test_an_activation_that_is_not_the_checkpoint_s_is_refused(saved, format):
    with pytest.raises(UserError, match="quick_gelu"):
        clipjax.load(saved[format], activation="gelu")


@pytest.mark.parametrize("format", ["orbax", "openai", "stablehlo"])
def test_convert_tells_and_stores_how_far_features_moved(saved, tmp_path, format):
    note = clipjax.convert(saved["flax"], tmp_path / "new", format)
    bound = 1e-5 if format == "stablehlo" else 0.0
    assert note["image_difference"] <= bound and note["text_difference"] <= bound
    assert note["image_largest"] > 0 and note["text_largest"] > 0
    assert json.loads(next(tmp_path.rglob("*parity.json")).read_text()) == note


def test_nothing_is_overwritten(saved, bundle):
    for format, path in saved.items():
        with pytest.raises(UserError, match="is there already"):
            bundle.save(path, format)


def test_one_name_is_one_class_and_a_class_without_a_name_is_refused(bundle):
    whole = bundle.class_embeddings(["dog"], ["a {c}"])
    np.testing.assert_array_equal(bundle.class_embeddings("dog", "a {c}"), whole)
    for names in ([], ["dog", []]):
        with pytest.raises(UserError, match="class_names: .* should be a name or a list of names for each class"):
            bundle.class_embeddings(names)


def test_an_unknown_format_is_refused_with_those_there_are(bundle, tmp_path):
    with pytest.raises(UserError, match="'keras' found, one of orbax, .*huggingface"):
        bundle.save(tmp_path / "x", "keras")
