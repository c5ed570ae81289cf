"""An export is written only where the receiver's network computes what the trunk's does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
import yaml

import mcl
from mcl.errors import RunFailed, UserError
from mcl.interop.detectron2 import trunk_format as detectron2
from mcl.interop.detectron2.names import to_detectron2
from mcl.interop.mmdetection import trunk_format as mmdetection
from mcl.interop.torchvision.resnet_format import resnet_maps
from mcl.interop.torchvision.resnet_shape import plain_shape
from mcl.interop.writing.exported import Unfit, require_same_backbone
from mcl.interop.writing.plain_rcnn import Names, PlainRcnn
from mcl.interop.writing.source import TrunkSource
from mcl.nn.trunk import TrunkSpec, load_trunk, save_trunk

from .conftest import make_detector, make_trunk, randomise

PLAIN = ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"]
#: ResNets by name; the first two have not one tensor more, less or of another shape than a plain one
OTHER = ["resnetblur50", "resnetaa50", "resnet50_gn", "resnet50d", "seresnet50"]
TORCHVISION = Names(
    stem=("conv1", "bn1"),
    block=("layer{layer}.{block}.conv{conv}", "layer{layer}.{block}.bn{conv}"),
    shortcut=("layer{layer}.{block}.downsample.0", "layer{layer}.{block}.downsample.1"),
    lateral=("", ""), output=("", ""), head=("", ""),
)  # fmt: skip


def source(backbone: str, parts: str = "backbone+pyramid+head") -> TrunkSource:
    return TrunkSource(make_trunk(backbone), {}, parts, Path("run"))


@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_the_plain_graph_is_torchvisions_resnet(name):
    torch.manual_seed(0)
    network = randomise(torchvision.models.get_model(name, weights=None))
    state = {n: t for n, t in network.state_dict().items() if not n.startswith("fc.")}
    images = torch.randn(1, 3, 64, 64)
    ours = PlainRcnn(state, TORCHVISION).resnet(images, plain_shape(state))
    for level, theirs in resnet_maps(network, images).items():
        torch.testing.assert_close(ours[int(level[1:])], theirs)


@pytest.mark.parametrize("receiver", [detectron2, mmdetection], ids=["detectron2", "mmdetection"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnext50_32x4d"])
def test_maps_of_every_part_are_compared(receiver, backbone):
    done = receiver.fit(source(backbone))
    assert set(done.differences) == {"c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "head"}
    assert 0 <= max(done.differences.values()) < 1e-5
    assert set(receiver.fit(source(backbone, "backbone")).differences) == {"c2", "c3", "c4", "c5"}


def test_tensors_at_each_others_places_are_found(monkeypatch):
    """Two of the same shape, so that names, shapes and reading back all agree."""
    exchanged = {"fpn_output2": "fpn_output3", "fpn_output3": "fpn_output2"}

    def wrong(name: str) -> str:
        right = to_detectron2(name)
        return next((right.replace(a, b) for a, b in exchanged.items() if a in right), right)

    monkeypatch.setattr(detectron2, "to_detectron2", wrong)
    with pytest.raises(RunFailed, match="p2 differs"):
        detectron2.fit(source("resnet18"))


@pytest.mark.parametrize(
    ("backbone", "to"),
    [*((name, "detectron2") for name in OTHER), ("resnetblur50", "mmdetection"), ("resnetblur50", "torchvision")],
)
def test_resnets_that_compute_something_else_are_refused(backbone, to, tmp_path):
    save_trunk(tmp_path / "trunk.safetensors", make_trunk(backbone), {"method": "mcl"})
    with pytest.raises(
        UserError, match=rf"--to {to}: it has no {backbone}.*; for this trunk use --to timm or --to safetensors$"
    ) as caught:
        mcl.export(trunk=tmp_path, to=to, out=tmp_path / ("x.pkl" if to == "detectron2" else "x.pth"))
    assert "\n" not in str(caught.value) and len(list(tmp_path.iterdir())) == 1
    same_names = backbone in ("resnetblur50", "resnetaa50")
    assert ("same names and shapes, computes something else (c" in str(caught.value)) == same_names


def test_a_detector_on_another_resnet_is_refused(tmp_path):
    make_detector(tmp_path / "run", False, "resnetblur18")
    with pytest.raises(UserError, match="it has no resnetblur18.*; for this detector use --to onnx$"):
        mcl.export(trunk=tmp_path / "run", to="torchvision", out=tmp_path / "d.pth", **{"with": "detector"})
    assert not (tmp_path / "d.pth").exists()


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_maps_that_prove_nothing_are_refused(value):
    maps = {f"c{level}": torch.full((1, 2, 3, 3), value) for level in (2, 3, 4, 5)}
    with pytest.raises(Unfit, match="nothing to compare"):
        require_same_backbone(maps, maps, "resnet18", "its resnet18")


def test_every_depth_that_detectron2_has_fits_and_others_do_not():
    for name, depth in {"resnet34": 34, "resnet101": 101, "resnet152": 152}.items():
        with torch.device("meta"):
            body = torchvision.models.get_model(name, weights=None).state_dict()
        shape = plain_shape({n: t for n, t in body.items() if not n.startswith("fc.")})
        assert detectron2.DEPTHS[(shape.block, shape.counts)] == mmdetection.DEPTHS[shape.name] == depth
    with pytest.raises(Unfit, match="no resnet26"):
        detectron2.fit(source("resnet26", "backbone"))


def windows(folder: Path) -> tuple[int, int, int]:
    """What the configurations of both libraries say: Detectron2's pooler, MMDetection's RoI layer and its head's."""
    config: dict = {}
    exec((folder / "mm.py").read_text(), config)
    head = config["model"]["roi_head"]
    pooler = yaml.safe_load((folder / "d2.yaml").read_text())["MODEL"]["ROI_BOX_HEAD"]["POOLER_RESOLUTION"]
    return pooler, head["bbox_roi_extractor"]["roi_layer"]["output_size"], head["bbox_head"]["roi_feat_size"]


def test_windows_of_a_fine_tuned_head_are_handed_on(tmp_path):
    make_detector(tmp_path / "run", True, convs=4, roi_size=5)
    mcl.export(trunk=tmp_path / "run", to="detectron2", out=tmp_path / "d2.pkl")
    mcl.export(trunk=tmp_path / "run", to="mmdetection", out=tmp_path / "mm.pth")
    assert windows(tmp_path) == (5, 5, 5)
    # and through a file of ours
    mcl.export(trunk=tmp_path / "run", to="safetensors", out=tmp_path / "t.safetensors")
    mcl.export(trunk=tmp_path / "t.safetensors", to="detectron2", out=tmp_path / "d2.pkl", overwrite=True)
    assert windows(tmp_path)[0] == 5


def test_windows_of_pre_training_otherwise(resnet18, tmp_path):
    assert load_trunk(resnet18).spec == TrunkSpec("resnet18", 32, 4, 64)
    mcl.export(trunk=resnet18, to="detectron2", out=tmp_path / "d2.pkl")
    mcl.export(trunk=resnet18, to="mmdetection", out=tmp_path / "mm.pth")
    assert windows(tmp_path) == (2, 2, 2)


def test_detectron2_reads_pkl_only(resnet18, tmp_path):
    with pytest.raises(UserError, match=r"from .pkl files only; give --out .*d2.pkl"):
        mcl.export(trunk=resnet18, to="detectron2", out=tmp_path / "d2.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["mmdetection", "torchvision"])
def test_the_file_beside_it_is_not_written_over_the_weights(to, detector_run, tmp_path):
    given = {"with": "detector"} if to == "torchvision" else {}
    with pytest.raises(UserError, match="goes beside it; choose another ending"):
        mcl.export(trunk=detector_run, to=to, out=tmp_path / "x.py", **given)
    assert not list(tmp_path.iterdir())
