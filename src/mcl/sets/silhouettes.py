"""Outlines of the demo's classes, each with variation inside the class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

OVERSAMPLING = 2
POINTS = 180  # points of a smooth outline
Outline = list[
    np.ndarray
]  # closed polygons of (N, 2) points around 0, about 1 in radius; the second is a hole


def silhouette(name: str, side: int, deform: float, rng: np.random.Generator) -> Image.Image:
    """An "L" mask of ``side`` x ``side`` pixels that shows one example of a class.

    Args:
        name: a key of :data:`SILHOUETTES`.
        side: width and height in pixels; the shape fills about nine tenths.
        deform: how far the outline wobbles, relative to its radius (0 to 0.3).
        rng: source of the variation.
    """
    outline = SILHOUETTES[name](rng)
    outline = [_wobble(_dense(points), deform, rng) if i == 0 else points for i, points in enumerate(outline)]
    extent = max(float(np.abs(points).max()) for points in outline)
    large = side * OVERSAMPLING
    mask = Image.new("L", (large, large))
    draw = ImageDraw.Draw(mask)
    for fill, points in zip((255, 0), outline, strict=False):
        draw.polygon([tuple(p) for p in (points / extent * 0.46 + 0.5) * large], fill=fill)
    # Blur and threshold round the corners by a random amount.
    rounded = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.005, 0.025) * large))
    return rounded.point(lambda value: 255 if value >= 128 else 0).resize((side, side), Image.Resampling.BOX)


def _disk(rng: np.random.Generator) -> Outline:
    return [_ellipse(1, rng.uniform(0.65, 1))]


def _ring(rng: np.random.Generator) -> Outline:
    aspect, hole = rng.uniform(0.75, 1), rng.uniform(0.45, 0.65)
    return [_ellipse(1, aspect), _ellipse(hole, hole * aspect)]


def _square(rng: np.random.Generator) -> Outline:
    aspect, shear = rng.uniform(0.6, 1), rng.uniform(-0.15, 0.15)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (1, aspect)
    return [corners + np.outer(corners[:, 1], (shear, 0))]


def _triangle(rng: np.random.Generator) -> Outline:
    return [np.array([(-1, 0.75), (1, 0.75), (rng.uniform(-0.4, 0.4), rng.uniform(-1, -0.6))])]


def _star(rng: np.random.Generator) -> Outline:
    points = int(rng.integers(5, 7))
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.38, 0.52))
    return [_polar(radius) * (1, rng.uniform(0.85, 1))]


def _cross(rng: np.random.Generator) -> Outline:
    arm, bar = rng.uniform(0.24, 0.38), rng.uniform(0.24, 0.38)
    quarter = [(arm, -1), (arm, -bar), (1, -bar)]
    half = quarter + [(x, -y) for x, y in reversed(quarter)]
    return [np.array(half + [(-x, y) for x, y in reversed(half)]) * (rng.uniform(0.75, 1), 1)]


def _crescent(rng: np.random.Generator) -> Outline:
    """A disk less a disk: the outer arc, back along the inner one, both from tip to tip."""
    tip, depth = rng.uniform(0.25, 0.45), rng.uniform(0.1, 0.35)
    outer = np.linspace(tip, 2 * np.pi - tip, POINTS // 2)
    outside = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    x, y = np.cos(tip), np.sin(tip)
    # Inner circle through both tips and (-depth, 0).
    centre = (x * x + y * y - depth * depth) / (2 * (x + depth))
    radius = centre + depth
    start = np.arctan2(-y, x - centre) % (2 * np.pi)
    inner = np.linspace(start, 2 * np.pi - start, POINTS // 2)
    inside = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return [np.concatenate([outside, inside])]


def _heart(rng: np.random.Generator) -> Outline:
    t = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([x, -y - 2], axis=1) / 16 * (1, rng.uniform(0.8, 1.1))]


# The first six are the default classes: the most different from each other.
SILHOUETTES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "ring": _ring,
    "heart": _heart,
}


def _ellipse(width: float, height: float) -> np.ndarray:
    return _polar(np.ones(POINTS)) * (width, height)


def _polar(radius: np.ndarray) -> np.ndarray:
    """(N, 2) points at equal angles, the first at the top."""
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False) - np.pi / 2
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _dense(points: np.ndarray) -> np.ndarray:
    """The same outline with about ``POINTS`` points, so that straight edges can bend."""
    if len(points) >= POINTS:
        return points
    share = np.linspace(0, 1, -(-POINTS // len(points)), endpoint=False)[:, None]
    return np.concatenate(
        [a + share * (b - a) for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)]
    )


def _wobble(points: np.ndarray, deform: float, rng: np.random.Generator) -> np.ndarray:
    """Stretch the radius by a smooth random function of the angle (waves of 2 to 4 periods)."""
    angle = np.arctan2(points[:, 1], points[:, 0])
    waves = np.arange(2, 5)
    amplitude, phase = (
        rng.uniform(-1, 1, len(waves)) / np.sqrt(len(waves)),
        rng.uniform(0, 2 * np.pi, len(waves)),
    )
    return points * (1 + deform * (amplitude * np.cos(np.outer(angle, waves) + phase)).sum(axis=1))[:, None]
