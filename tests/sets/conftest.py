import numpy as np
import pytest
from PIL import Image

from sets.sources import draw_cutout


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Three classes (one of them with too few cut-outs) and six photos, with all kinds of faults."""
    root = tmp_path_factory.mktemp("sources")
    for i in range(6):
        draw_cutout(root / "cutouts/ball/deep er" / f"b{i}.png", (40 * i, 250 - 30 * i, 30 * i, 255))
        draw_cutout(root / "cutouts/tent" / f"t{i}.png", (250 - 40 * i, 40 * i, 120, 255), sides=3)
    for i in range(3):
        draw_cutout(root / "cutouts/rare" / f"r{i}.png", (90 * i, 10, 200, 255), sides=5)
    ball = Image.open(root / "cutouts/tent/t1.png")
    ball.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 90)).save(root / "cutouts/tent/again.png")
    ball.save(root / "cutouts/tent/t2_mirror.png")
    ball.convert("RGB").save(root / "cutouts/tent/opaque.png")
    (root / "cutouts/tent/broken.png").write_bytes(b"\x89PNG no")
    rng = np.random.default_rng(0)
    (root / "photos/more").mkdir(parents=True)
    for i in range(6):
        noise = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        noise.resize((130 + 20 * i, 110), Image.Resampling.BICUBIC).save(root / f"photos/more/p{i}.jpg")
    (root / "photos/empty.jpg").touch()
    return root
