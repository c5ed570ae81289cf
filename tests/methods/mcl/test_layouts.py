"""Ways to show tiles to the networks: beside each other, or each as an image of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from levels import random_batch
from mcl.config.base import from_values
from mcl.config.bench import BenchStepSettings
from mcl.config.pretrain import ModelSettings
from mcl.errors import UserError
from mcl.methods.flops import count_flops
from mcl.methods.level_encoder import cut_windows
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.tiles import tiles_of
from mcl.methods.montage import assemble, stack
from mcl.methods.step import TrainingStep
from mcl.nn.trunk import Trunk, TrunkSpec

SCALES = (1, 2, 4, 8)
UNCHANGED = (0, 0, 0), (1 / 255,) * 3
TINY = {
    "batch": 4, "image_size": 64, "model.backbone": "test_resnet", "model.pyramid_channels": 16,
    "model.hidden": 32, "model.embedding": 16, "model.head_convs": 1, "loop.threads": 1,
}  # fmt: skip


def small(backbone: str = "test_resnet", **method) -> Mcl:
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec(backbone, 16, 2, image_size=64))
    return Mcl(trunk, ModelSettings(hidden=32, embedding=16), MclSettings(**method), seed=0)


def batch(images: int = 16) -> dict:
    return random_batch(images, SCALES, torch.Generator().manual_seed(0))


def test_a_batch_of_tiles_holds_the_tiles_of_the_montages_in_their_order():
    method, tiles = small(), tiles_of(batch(32)["views"], 1)
    shuffle = method.draw_shuffle(32, 0, 1)
    canvases = assemble(tiles, shuffle, *UNCHANGED)
    stacked, layout = stack(tiles, shuffle, *UNCHANGED), method.layout(shuffle)
    for scale in SCALES:
        assert torch.equal(cut_windows(canvases[layout.slice_of(scale)], 64 // scale), stacked[scale])


def test_a_tile_of_its_own_is_embedded_as_the_trunk_embeds_an_image():
    """The level of its scale is one window, the whole of it."""
    method, data = small(layout="batch").double().eval(), batch()
    encoder, levels = method.online["encoder"], {1: "p5", 2: "p4", 4: "p3", 8: "p2"}
    tiles = {s: t.double() for s, t in tiles_of(data["views"], 1).items()}
    with torch.no_grad():
        found = encoder.read(encoder.maps_stacked(tiles, SCALES)).embeddings
        for scale, level in levels.items():
            window = encoder.trunk(tiles[scale])[level]
            assert window.shape[-2:] == (2, 2)
            expected = encoder.projector(encoder.trunk.roi_heads.box_head(window).mean(dim=(2, 3)))
            torch.testing.assert_close(found[scale], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("assignment", ["top", "all"])
def test_a_batch_of_tiles_trains_everything_online(assignment):
    method = small(layout="batch", assignment=assignment).train()
    loss, numbers = method.loss(batch(), 0)
    loss.backward()
    assert torch.isfinite(loss) and {"loss/p2", "accuracy/p5", "rank"} <= set(numbers)
    assert all(p.grad is not None for p in method.trained.parameters())


def test_the_cost_of_a_batch_of_tiles_is_counted_as_it_is():
    """Without data as with it, and the head sees exactly as many windows as with montages."""
    tiles = from_values(BenchStepSettings, {**TINY, "method.layout": "batch"})
    counted = [_flops(tiles, device) for device in ("meta", "cpu")]
    montages = _flops(from_values(BenchStepSettings, TINY), "meta")
    assert counted[0] == counted[1]
    for part in ("head", "projector", "predictors"):
        assert counted[0][part] == montages[part] > 0
    assert counted[0]["backbone"] > 0 and counted[0]["target"] < montages["target"]


def _flops(settings: BenchStepSettings, device: str) -> dict[str, int]:
    step = TrainingStep(settings, device)
    return count_flops(step.method.components(), step.gradients_only)


def test_the_picture_shows_tiles_apart(tmp_path):
    shown = {}
    for layout in ("montage", "batch"):
        (tmp_path / layout).mkdir()
        path = small(layout=layout).draw_first_batch(tmp_path / layout, batch())
        shown[layout] = np.asarray(Image.open(path))
    white = {layout: (pixels == 255).all(axis=2).mean() for layout, pixels in shown.items()}
    assert shown["montage"].shape == shown["batch"].shape and white["batch"] > 1.1 * white["montage"]


def test_a_network_of_fixed_size_cannot_take_tiles_as_images():
    with pytest.raises(UserError, match="--method.layout batch: swin_tiny.*images of 32 px"):
        small("swin_tiny_patch4_window7_224", layout="batch")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"layout": "batch", "encode": "exhaustive"}, "no canvases"),
        ({"layout": "batch", "target_canvases": "full"}, "use target_canvases=all"),
    ],
)
def test_what_does_not_go_together_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        MclSettings(**method)
