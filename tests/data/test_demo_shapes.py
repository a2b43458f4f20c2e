import itertools

import numpy as np
import pytest

from clipjax.data.demo_shapes import (
    BACKGROUNDS,
    COLORS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    captions,
    draw,
    full_caption,
    random_scene,
)


def foreground(scene, seed=0):
    """[SIDE, SIDE] bool: the pixels nearer to the scene's colour than to its background."""
    pixels = np.asarray(draw(scene, np.random.default_rng(seed)), np.float32)
    to_color, to_background = (
        np.abs(pixels - np.array(c, np.float32)).sum(-1) for c in (COLORS[scene.color], BACKGROUNDS[scene.background])
    )
    return to_color < to_background


@pytest.mark.parametrize("color, shape", itertools.product(COLORS, SHAPES))
def test_every_combination_is_seen_on_every_background(color, shape):
    for background in BACKGROUNDS:
        shown = foreground(Scene(color, shape, "small", 1, "center", background)).sum()
        assert 20 < shown < SIDE * SIDE / 2


@pytest.mark.parametrize("shape, number", itertools.product(SHAPES, (1, 2, 3)))
def test_larger_sizes_cover_more_of_the_picture(shape, number):
    areas = [foreground(Scene("blue", shape, size, number, "center", "white")).sum() for size in SIZES]
    assert areas == sorted(set(areas))


@pytest.mark.parametrize("size, number", itertools.product(SIZES, (1, 2, 3)))
def test_shapes_keep_off_the_border_and_stand_where_the_scene_says(size, number):
    middle = (SIDE - 1) / 2
    for seed, (place, (right, down)) in enumerate(PLACES.items()):
        shown = foreground(Scene("red", "circle", size, number, place, "white"), seed)
        assert not (shown[0].any() or shown[-1].any() or shown[:, 0].any() or shown[:, -1].any())
        y, x = np.argwhere(shown).mean(axis=0) - middle
        assert (x * right > 1) if right else abs(x) < 3
        assert (y * down > 1) if down else abs(y) < 3


def test_every_caption_names_color_and_shape(rng):
    for color, shape in itertools.product(COLORS, SHAPES):
        scene = random_scene(rng, color, shape)
        for text in captions(scene, rng):
            assert color in text and shape in text


def test_a_full_caption_names_everything(rng):
    for _ in range(200):
        scene = random_scene(rng, "red", "ring")
        text = full_caption(scene, rng)
        assert all(word in text for word in (scene.size, scene.place, scene.background, NUMBERS[scene.number - 1]))


def test_captions_are_phrased_in_many_ways(rng):
    scene = Scene("green", "star", "small", 2, "top", "gray")
    assert len({text for _ in range(50) for text in captions(scene, rng)}) > 50


def test_drawing_depends_on_the_generator_only():
    scene = Scene("pink", "cross", "large", 3, "left", "beige")
    first, again, other = (np.asarray(draw(scene, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
