"""Settings of ``mcl data demo``, ``trees``, ``compose`` and ``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from mcl.config.base import Command


class DataSettings(Command):
    """Where a generated set goes."""

    out: Path = Field(
        description="Folder to write; gets unlabeled/, images/, train.json, test.json, preview.png."
    )
    overwrite: bool = Field(False, description="Replace a set that mcl data wrote there before.")

    def recorded(self) -> dict:
        """Settings that the pictures depend on, for the ``info`` of the JSON files."""
        return self.model_dump(mode="json", exclude={"out", "overwrite", "workers", "package"})


class SceneSettings(DataSettings):
    """What composed scenes look like; sizes up to 1 are fractions of ``image_size``, above 1 pixels."""

    seed: int = Field(0, ge=0, description="Same seed, same pictures, byte for byte, whatever workers is.")
    unlabeled_objects: int = Field(1000, ge=0, description="Unlabeled images of one object in the middle.")
    unlabeled_scenes: int = Field(1000, ge=0, description="Unlabeled scenes.")
    train_scenes: int = Field(400, ge=1, description="Labelled training scenes.")
    test_scenes: int = Field(100, ge=1, description="Labelled test scenes.")
    image_size: int = Field(128, ge=32, le=4096, description="Width and height of every image in pixels.")
    min_objects: int = Field(
        1, ge=0, description="Fewest objects in a scene (less only where no place is left)."
    )
    max_objects: int = Field(4, ge=1, le=200, description="Most objects in a scene.")
    min_size: float = Field(
        0.25, gt=0, description="Smallest longer side of an object, in pixels or as a fraction."
    )
    max_size: float = Field(
        0.82, gt=0, description="Largest longer side of an object, in pixels or as a fraction."
    )
    centred_min_size: float = Field(
        0.5, gt=0, description="The same for the one object of unlabeled_objects."
    )
    centred_max_size: float = Field(
        0.9, gt=0, description="The same for the one object of unlabeled_objects."
    )
    rotation: float = Field(20.0, ge=0, le=180, description="Objects are turned by up to this many degrees.")
    flip: bool = Field(True, description="Mirror half of the objects and backgrounds.")
    brightness: float = Field(
        0.2, ge=0, lt=1, description="Brightness of objects and backgrounds varies by this share."
    )
    edge_softness: float = Field(
        0.7, ge=0, le=5, description="Objects' edges fade over up to this many pixels."
    )
    overhang: float = Field(
        0.1, ge=0, lt=0.5, description="Share of an object's width or height that may lie outside."
    )
    min_visible: float = Field(0.4, ge=0, le=1, description="Least visible share of an object's area.")
    min_visible_pixels: int = Field(64, ge=1, description="Least visible area of an object in pixels.")
    min_contrast: float = Field(
        0.0,
        ge=0,
        le=255,
        description="Least distance of mean colour between an object and what it covers (0-255).",
    )
    jpeg_quality: int = Field(92, ge=30, le=100, description="JPEG quality of the pictures.")
    workers: int = Field(1, ge=1, le=256, description="Processes that compose.")

    @model_validator(mode="after")
    def _ranges(self) -> SceneSettings:
        for low, high in (
            ("min_objects", "max_objects"),
            ("min_size", "max_size"),
            ("centred_min_size", "centred_max_size"),
        ):
            smallest, largest = self.pixels(getattr(self, low)), self.pixels(getattr(self, high))
            if "size" not in low:
                smallest, largest = getattr(self, low), getattr(self, high)
            if smallest > largest:
                raise ValueError(f"{low} ({smallest:g}) is larger than {high} ({largest:g})")
        if self.pixels(max(self.max_size, self.centred_max_size)) > 2 * self.image_size:
            raise ValueError(f"objects may be at most twice image_size ({self.image_size} pixels)")
        return self

    def pixels(self, size: float) -> float:
        """A size setting in pixels: up to 1 it is a fraction of ``image_size``."""
        return size * self.image_size if size <= 1 else float(size)


class DataComposeSettings(SceneSettings):
    """Compose unlabeled images and labelled scenes from cut-outs (pictures with alpha) and photos."""

    common: ClassVar = (
        "backgrounds", "overwrite", "seed", "image_size", "unlabeled_objects", "unlabeled_scenes", "train_scenes", "test_scenes", "val_scenes", "max_objects", "class_map", "test_fraction", "workers",
    )  # fmt: skip

    cutouts: Path = Field(
        description="Folder of class folders with cut-outs (PNG or WebP with transparency)."
    )
    backgrounds: Path = Field(description="Folder of photos, searched recursively.")
    class_map: str | None = Field(
        None, description="YAML file of 'class: [patterns]' relative to cutouts, or the shipped map 'stamps'."
    )
    include: list[str] = Field(["*"], description="Classes to use (patterns such as 'b*'; comma-separated).")
    exclude: list[str] = Field([], description="Classes to leave out (patterns; comma-separated).")
    class_depth: int = Field(
        1,
        ge=1,
        le=8,
        description="Folder levels that name a class; 2: animals/birds and animals/bugs are two classes.",
    )
    follow_links: bool = Field(False, description="Also search folders that are symbolic links.")
    test_fraction: float = Field(
        0.25, gt=0, lt=1, description="Share of cut-outs and photos kept for the test scenes."
    )
    val_scenes: int = Field(
        0,
        ge=0,
        description="Labelled scenes to tune on, of objects and photos that train and test never show.",
    )
    val_fraction: float = Field(
        0.15, gt=0, lt=1, description="Share of cut-outs and photos kept for val_scenes, if there are any."
    )
    labelled_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of each class's training cut-outs that labelled scenes show; unlabeled images show all.",
    )
    unlabeled_classes: list[str] = Field(
        [],
        description="Classes that unlabeled images show besides the labelled ones (patterns; comma-separated).",
    )
    unlabeled_cutouts: Path | None = Field(
        None, description="Folder of more cut-outs for unlabeled images only, searched recursively."
    )
    unlabeled_once: bool = Field(
        False,
        description="Each training cut-out in one of the unlabeled_objects at most, so an image is an instance.",
    )

    @model_validator(mode="after")
    def _splits(self) -> DataComposeSettings:
        if self.val_scenes and self.test_fraction + self.val_fraction >= 1:
            raise ValueError(
                f"test_fraction ({self.test_fraction:g}) and val_fraction ({self.val_fraction:g}) leave nothing "
                "to train on"
            )
        if self.unlabeled_once and self.unlabeled_scenes:
            raise ValueError(
                "unlabeled_once shows a cut-out in one image only, but unlabeled_scenes would show it again: "
                "set unlabeled_scenes to 0"
            )
        return self


class DataDemoSettings(SceneSettings):
    """Make the embedded demo set: eight kinds of shapes with photo texture on scikit-image's photos."""

    common: ClassVar = (
        "overwrite", "seed", "image_size", "classes", "unlabeled_objects", "unlabeled_scenes", "train_scenes", "test_scenes", "max_objects", "min_size", "max_size", "workers",
    )  # fmt: skip

    min_size: float = Field(
        0.22, gt=0, description="Smallest longer side of an object, in pixels or as a fraction."
    )
    max_size: float = Field(
        0.7, gt=0, description="Largest longer side of an object, in pixels or as a fraction."
    )
    rotation: float = Field(30.0, ge=0, le=180, description="Objects are turned by up to this many degrees.")
    min_contrast: float = Field(
        30.0,
        ge=0,
        le=255,
        description="Least distance of mean colour between an object and what it covers (0-255).",
    )
    classes: int = Field(6, ge=1, le=8, description="How many kinds of shapes.")
    cutouts_per_class: int = Field(
        60, ge=2, description="Different training objects a class; the test has a third."
    )
    texture_blend: float = Field(
        0.7, ge=0, le=1, description="1: an object shows only photo texture, 0: only one colour."
    )
    shading: float = Field(0.4, ge=0, le=1, description="How much an object darkens towards its edge.")
    deform: float = Field(0.06, ge=0, le=0.3, description="How far outlines deviate from the ideal shape.")


class DataTreesSettings(DataSettings):
    """Cut real aerial photos with hand-drawn tree boxes (packaged with deepforest) into tiles."""

    package: Path | None = Field(
        None,
        description="deepforest's folder, its data folder or wheel; none: installed, else pip downloads it.",
    )
    tile: int = Field(128, ge=32, le=2048, description="Width and height of a labelled tile in pixels.")
    stride: int = Field(128, ge=8, description="Distance between labelled tiles in pixels.")
    unlabeled_tile: int | None = Field(
        None, ge=32, le=2048, description="Width of an unlabeled tile; none: as tile."
    )
    unlabeled_stride: int = Field(64, ge=8, description="Distance between unlabeled tiles in pixels.")
    min_visible: float = Field(
        0.5, gt=0, le=1, description="Least share of a box inside the tile for it to be kept."
    )
    keep_empty: bool = Field(False, description="Keep labelled tiles without a box.")
    train_photos: list[str] = Field(["2019_YELL_2_528000*"], description="Photos of train.json (patterns).")
    test_photos: list[str] = Field(["2019_YELL_2_541000*"], description="Photos of test.json (patterns).")
    val_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training photos' width, on the right, kept for val.json, to tune on; 0: none.",
    )


class DataConvertSettings(Command):
    """Write labels of any format as a COCO JSON, which every command reads; the images stay where they are."""

    labels: str = Field(
        description="A COCO or LVIS JSON, a VOC folder or image set, a Cityscapes folder, a YOLO data.yaml: "
        "[FORMAT:]PATH[#SPLIT], several with commas, such as voc:VOC2007#trainval,VOC2012#trainval."
    )
    images: Path | None = Field(
        None, description="Folder that file names start from; none: as the format has it (COCO, LVIS: the JSON's)."
    )
    out: Path = Field(description="COCO JSON to write.")
    overwrite: bool = Field(False, description="Replace a file that is there.")
    max_missing: float = Field(0.0, ge=0, le=1, description="Share of images that may be missing; they are left out.")


class DataSubsetSettings(DataConvertSettings):
    """Write part of labels of any format as a COCO JSON, drawn as papers on semi-supervised detection draw it."""

    fraction: float = Field(gt=0, lt=1, description="Share of the images to draw, such as 0.01, 0.02, 0.05 or 0.1.")
    fold: int = Field(1, ge=0, le=2**32 - 1, description="Which of the draws; papers take 1 to 5.")
    rest: Path | None = Field(None, description="COCO JSON to write the images to that are not drawn; none: not written.")


class DataCheckSettings(Command):
    """Show what is in labels of any format: boxes by class and size, all that is wrong, and what sizes suit them."""

    labels: str = Field(
        description="As for mcl data convert: [FORMAT:]PATH[#SPLIT], several with commas, such as train.json."
    )
    images: Path | None = Field(
        None, description="Folder that file names start from; none: as the format has it (COCO, LVIS: the JSON's)."
    )
    out: Path | None = Field(None, description="Folder for labels.png (what is annotated) and check.json; none: not written.")
    overwrite: bool = Field(False, description="Replace files that are there.")
    max_pixels: int = Field(
        2**27, ge=4096, description="Largest width x height that is decoded; a larger image stops the command."
    )
