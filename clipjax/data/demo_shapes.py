"""The demo's pictures and their captions: coloured shapes with size, number, place and background."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32  # pixels of a picture's side
COLORS = {
    "red": (214, 35, 40),
    "yellow": (245, 205, 20),
    "green": (40, 150, 60),
    "cyan": (0, 195, 215),
    "blue": (35, 80, 210),
    "purple": (125, 45, 165),
    "pink": (255, 130, 190),
    "brown": (130, 78, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 0.21, "large": 0.32}  # radius of a shape, as a part of the side
NUMBERS = ("one", "two", "three")
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "center": (0, 0)}
BACKGROUNDS = {"white": (247, 247, 247), "gray": (190, 190, 190), "beige": (235, 220, 180)}

_OVERSAMPLING = 4
_SHRINK = (1.0, 0.66, 0.62)  # radius for one, two, three shapes, so that three large ones fit
_LAYOUTS = (  # centres of one, two, three shapes, in radii, around the middle of the group
    ((0.0, 0.0),),
    ((-1.05, 0.0), (1.05, 0.0)),
    ((-1.05, 0.95), (1.05, 0.95), (0.0, -0.95)),
)


class Scene(NamedTuple):
    """What a picture shows; every field but `number` (1, 2 or 3) is a key of the tables above."""

    color: str
    shape: str
    size: str
    number: int
    place: str
    background: str


def random_scene(rng: np.random.Generator, color: str, shape: str, number: int | None = None) -> Scene:
    """A scene of the given colour and shape; unless `number` says otherwise, three fifths are single shapes."""
    size, place, background = (list(t)[rng.integers(len(t))] for t in (SIZES, PLACES, BACKGROUNDS))
    return Scene(color, shape, size, number or int(rng.choice((1, 1, 1, 2, 3))), place, background)


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB picture of SIDE x SIDE pixels; `rng` shifts, turns and tints it a little."""
    side = SIDE * _OVERSAMPLING
    radius = SIZES[scene.size] * _SHRINK[scene.number - 1] * rng.uniform(0.95, 1.05)
    layout = np.array(_LAYOUTS[scene.number - 1]) * radius
    room = np.maximum(0.5 - np.abs(layout).max(axis=0) - radius - 0.01, 0.0)  # how far the group may move, x and y
    centre = 0.5 + np.array(PLACES[scene.place]) * room * rng.uniform(0.85, 1.0) + room * rng.uniform(-0.08, 0.08, 2)
    image = Image.new("RGB", (side, side), _tint(BACKGROUNDS[scene.background], rng, 7))
    canvas = ImageDraw.Draw(image)
    for offset in layout:
        x, y = (np.clip(centre, 0.5 - room, 0.5 + room) + offset) * side
        _draw_shape(canvas, scene.shape, x, y, radius * side, rng.uniform(-0.08, 0.08), _tint(COLORS[scene.color], rng))
    return image.reduce(_OVERSAMPLING)


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Four captions, from short to complete; all of them name colour and shape."""
    return [_caption(scene, rng, share) for share in (0.0, 0.3, 0.6)] + [full_caption(scene, rng)]


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that names every field, so that different scenes never share one."""
    return _caption(scene, rng, 1.0)


def _caption(scene: Scene, rng: np.random.Generator, share: float) -> str:
    """A caption in which each field beside colour and shape appears with probability `share`."""
    size, number, place, background = rng.random(4) < share
    plural = scene.number > 1
    noun = scene.shape if not plural else {"cross": "crosses"}.get(scene.shape, scene.shape + "s")
    count = NUMBERS[scene.number - 1] if number else ("" if plural else "a")
    adjective = scene.size if size else ""
    things = (
        f"{count} {adjective} {scene.color} {noun}",
        f"{count} {scene.color} {adjective} {noun}",
        f"{count} {adjective} {noun} in {scene.color}",
        f"{count} {adjective} {noun} that {'are' if plural else 'is'} {scene.color}",
    )[rng.choice(4, p=(0.55, 0.15, 0.15, 0.15))]
    where = ""
    if place:
        spot = {"center": "in the center", "top": "at the top", "bottom": "at the bottom"}
        where += " " + spot.get(scene.place, f"on the {scene.place}")
    if background:
        where += f" on a {scene.background} background" if rng.integers(2) else f", {scene.background} background"
    start = ("", "", "a picture of ", "a drawing of ", "there {} ".format("are" if plural else "is"))[rng.integers(5)]
    return " ".join((start + things + where).split())


def _draw_shape(canvas, shape, x, y, radius, angle, color):
    """One shape with its centre at (x, y), `radius` pixels from it to the outermost point, turned by `angle`."""
    if shape in ("circle", "ring"):
        r = 0.88 * radius
        box = (x - r, y - r, x + r, y + r)
        if shape == "circle":
            canvas.ellipse(box, fill=color)
        else:
            canvas.ellipse(box, outline=color, width=round(0.36 * radius))
        return
    canvas.polygon(
        [(x + radius * r * math.sin(a + angle), y - radius * r * math.cos(a + angle)) for r, a in _OUTLINES[shape]],
        fill=color,
    )


def _star():
    return [(1.0 if i % 2 == 0 else 0.42, i * math.pi / 5) for i in range(10)]


def _cross(half=0.32):
    corner, tip, turn = half * math.sqrt(2), math.hypot(1.0, half), math.atan(half)
    arm = [(tip, -turn), (tip, turn), (corner, math.pi / 4)]
    return [(r * 0.95, a + k * math.pi / 2) for k in range(4) for r, a in arm]


_OUTLINES = {  # corners as (radius, angle from the upward direction), in units of the shape's radius
    "square": [(1.0, math.pi / 4 + k * math.pi / 2) for k in range(4)],
    "triangle": [(1.0, k * 2 * math.pi / 3) for k in range(3)],
    "star": _star(),
    "cross": _cross(),
}


def _tint(color, rng, spread=14):
    """`color` with each channel moved by at most `spread` of 255."""
    return tuple(int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in color)
