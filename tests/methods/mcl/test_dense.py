"""Cells against cells: the places are those of the image, and the loss is the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from images import picture_folder
from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.loading.dataset import UnlabeledImages, collate_views
from mcl.data.loading.views import ViewMaker
from mcl.data.sources.find import find_images
from mcl.methods.mcl.dense import at_places, cell_places, dense_loss
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.step import update
from mcl.nn.trunk import Trunk, TrunkSpec


def small(**method) -> Mcl:
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=64))
    settings = MclSettings(**{"dense_weight": 0.5, **method})
    return Mcl(trunk, ModelSettings(hidden=32, embedding=16), settings, seed=0)


def batch(method: Mcl, folder: Path, images: int = 16) -> dict:
    """As the loader makes it: with the crops of every view."""
    maker = ViewMaker(ViewSettings(), Mcl.wanted(method.settings, ViewSettings(), 64), 0)
    dataset = UnlabeledImages(find_images(picture_folder(folder, images)), maker)
    return collate_views(dataset.__getitems__([(0, index) for index in range(images)]))


def test_a_map_of_places_is_read_at_the_places_asked_for():
    """Where a target's cells say where they lie, a tile's cells find where they lie themselves."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(50, 5, generator=generator, dtype=torch.float64)
    target[:, 2:4] = target[:, :2] + 0.2 + target[:, 2:4]
    tile = target.clone()  # inside the target, away from its outer half cells
    width = target[:, 2:4] - target[:, :2]
    tile[:, :2] = target[:, :2] + (0.15 + 0.2 * torch.rand(50, 2, generator=generator, dtype=torch.float64)) * width
    tile[:, 2:4] = target[:, 2:4] - 0.15 * width
    target[:, 4], tile[:, 4] = torch.randint(0, 2, (2, 50), generator=generator).double()
    places = cell_places(tile, 3)
    found, inside = at_places(cell_places(target, 4).movedim(-1, 1), places, target)
    assert inside.all()
    torch.testing.assert_close(found.movedim(1, -1), places)


def test_places_that_the_target_does_not_show_do_not_count():
    target = torch.tensor([[0.0, 0.0, 0.5, 1.0, 0.0]])
    tile = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]])
    _, inside = at_places(torch.zeros(1, 1, 2, 2), cell_places(tile, 4), target)
    assert inside[0].tolist() == [[True, True, False, False]] * 4
    tile[0, 4] = 1
    _, inside = at_places(torch.zeros(1, 1, 2, 2), cell_places(tile, 4), target)
    assert inside[0].tolist() == [[False, False, True, True]] * 4


def test_the_loss_is_a_regression_over_shared_cells():
    predictions, targets = torch.randn(3, 5, 2, 2).double(), torch.randn(3, 5, 2, 2).double()
    whole, left, nowhere = [0.0, 0, 1, 1, 0], [0.0, 0, 0.5, 1, 0], [2.0, 2, 3, 3, 0]
    crops, target_crops = torch.tensor([whole, left, nowhere]).double(), torch.tensor([whole, left, whole]).double()

    def apart(p, t):
        return ((p / p.norm() - t / t.norm()) ** 2).sum()

    expected = sum(
        apart(predictions[n, :, i, j], targets[n, :, i, j]) / 4 for n in (0, 1) for i in (0, 1) for j in (0, 1)
    ) / 3  # fmt: skip
    found, shared = dense_loss(predictions, targets, crops, target_crops)
    torch.testing.assert_close(found, expected)
    assert shared == pytest.approx(2 / 3)


@pytest.mark.parametrize("options", [{}, {"layout": "batch"}, {"loss": "byol", "assignment": "all"}], ids=str)
def test_everything_online_is_trained_and_the_dense_loss_falls(options, tmp_path):
    method = small(**options).train()
    data = batch(method, tmp_path)
    loss, numbers = method.loss(data, 0)
    loss.backward()
    assert all(p.grad is not None for p in method.trained.parameters())
    assert 0.3 < numbers["dense/shared"] < 1 and {"dense/p2", "dense/p5", "loss/p3"} <= set(numbers)
    assert not any(p.requires_grad for p in method.target.parameters()) and method.target.dense_projector is not None
    optimizer = torch.optim.AdamW(method.trained.parameters(), 3e-3)
    rows = []
    for step in range(15):
        rows.append(update(method, data, 0, optimizer, 10.0))
        method.after_update(step, 15)
    assert rows[-1]["dense/p5"] < 0.7 * rows[0]["dense/p5"] and rows[-1]["spread"] > 0.5


def test_without_it_the_loader_is_asked_for_no_crops_and_no_weight_is_there():
    method = small(dense_weight=0.0)
    assert not Mcl.wanted(method.settings, ViewSettings(), 64).geometry
    assert not any("dense" in name for name in method.state_dict())


@pytest.mark.parametrize(
    "method", [{"loss": "simsiam"}, {"layout": "scattered"}, {"encode": "exhaustive"}], ids=str
)
def test_what_does_not_go_together_is_refused(method):
    with pytest.raises(ValueError, match="dense_weight"):
        MclSettings(dense_weight=1.0, **method)
