"""Start a trunk from weights of another tool, with a report of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mcl.errors import UserError
from mcl.interop.reading.files import is_safetensors
from mcl.interop.reading.foreign import architecture_of, read_foreign
from mcl.interop.reading.transformers import vit_name
from mcl.interop.timm.names import to_features
from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.nn.backbone import build_backbone
from mcl.nn.described import checked_spec
from mcl.nn.load_report import LoadReport, match
from mcl.nn.parts import (
    BODY,
    FPN,
    HEAD,
    choose_pieces,
    least_parts,
    parts_of,
    pieces_in,
    prefixes_of,
    trained_in,
)
from mcl.nn.stored import DETECTOR_FILE, TRUNK_FILE, safetensors_metadata, what_is_there
from mcl.nn.trunk import Trunk, TrunkSpec, read_trunk
from mcl.nn.vit import fitted_positions, patch_of

REMEDY = "leave --init_parts away to take what was trained, or give --allow_partial to start the rest fresh"


@dataclass(frozen=True)
class ForeignReport(LoadReport):
    """A load report that also says what the file was taken for.

    Attributes:
        kind: e.g. ``MoCo v1/v2``.
    """

    kind: str = ""

    def lines(self, most: int = 4) -> list[str]:
        """As ``LoadReport``, after the kind."""
        return [f"weights: {self.kind}", *super().lines(most)]


def apply_initial_weights(
    trunk: Trunk, source: Path | str, parts: str | None = None, allow_partial: bool = False
) -> ForeignReport:
    """Load a trunk of ours, a foreign file, a folder in timm's layout or a timm name into ``trunk``.

    Args:
        trunk: changed in place; BatchNorm buffers are loaded too.
        source: see ``read_foreign``; also run folders and trunk files of mcl.
        parts: what to load; None: every piece that the source has trained.
        allow_partial: load what fits when these parts were not trained, or when tensors of them are missing,
            unexpected or of another shape.

    Raises:
        UserError: unreadable, not recognised, or (without ``allow_partial``) not complete: the message says which
            tensors, and names a different stem or architecture.
    """
    kind, state, notes, trained = _read(source, trunk.spec.image_size)
    wanted = trunk.state_dict()
    state, tail = _aligned(state, wanted)
    if tail:
        notes = [
            *notes,
            f"{len(tail)} tensors of the classifier or behind C5 are left out ({', '.join(tail[:2])}, ...)",
        ]
    state, told = _positions_fitted(state, wanted)
    notes, name = [*notes, *told], f"--init_from {source}"
    _explain_architecture(name, state, wanted, trunk.spec.backbone, allow_partial)
    pieces, lacking = choose_pieces(parts, trained, f"{name} ({kind})", allow_partial, REMEDY)
    fits, report = match(wanted, state, prefixes_of(pieces))
    for piece in pieces:
        starts = prefixes_of([piece])  # (a head may have no convolutions)
        if any(key.startswith(starts) for key in wanted) and not any(key.startswith(starts) for key in fits):
            raise UserError(f"{name}: it is {kind} and has no {piece} that fits ({' | '.join(report.lines(2))})")
    report.require_complete(name, allow_partial)
    trunk.load_state_dict(fits, strict=False)
    if lacking:
        notes = [*notes, f"asked for, but not trained there, so fresh: {', '.join(lacking)}"]
    told = {f.name: getattr(report, f.name) for f in fields(report)} | {"pieces": pieces, "notes": tuple(notes)}
    return ForeignReport(**told, kind=kind)


def read_any_trunk(
    source: Path | str, image_size: int | None = None
) -> tuple[TrunkSpec, dict[str, Tensor], dict[str, Any]]:
    """As ``mcl.nn.trunk.read_trunk``, for foreign weights too: (spec, state dict, metadata).

    The architecture is read from the tensors (ResNets, torchvision's ConvNeXt and Swin), from a timm folder's
    ``config.json`` or from the timm name; widths of pyramid and head from theirs, when the file has them.

    Args:
        source: as for ``apply_initial_weights``.
        image_size: side of the images; None: 224 for foreign weights, which do not tell.

    Raises:
        UserError: unreadable, or of an architecture that cannot be told.
    """
    if _is_ours(Path(source)):
        spec, state, metadata = read_trunk(source)
        return spec, state, {key: value for key, value in metadata.items() if key not in ("kind", "notes")}
    size = image_size or 224
    kind, state, notes = read_foreign(source, size)
    backbone = architecture_of(kind) or vit_name(_body(state)) or _resnet_name(source, kind, state)
    output = state.get(f"{FPN}layer_blocks.3.0.weight")
    convs = {name.split(".")[2] for name in state if name.startswith(HEAD)}
    spec = TrunkSpec(backbone, output.shape[0] if output is not None and output.dim() else 256, len(convs) or 4, size)
    spec = _with_patches(spec, state)
    checked_spec(asdict(spec), state, str(source))
    body = {BODY + name: tensor for name, tensor in build_backbone(backbone, size, form=spec.form).state_dict().items()}
    state, _ = _aligned(state, body)
    state, told = _positions_fitted(state, body)
    notes = [*notes, *told]
    pieces = pieces_in(state)
    return spec, state, {"kind": kind, "notes": notes, "parts": least_parts(pieces), "trained": list(pieces)}


def _read(
    source: Path | str, image_size: int
) -> tuple[str, dict[str, Tensor], list[str], tuple[str, ...]]:
    """What it is, its tensors, notes, and the pieces that it has trained: of weights from elsewhere all they have."""
    if _is_ours(Path(source)):
        spec, state, metadata = read_trunk(source)
        trained = trained_in(metadata)
        inside = " inside a fine-tuned detector" if metadata.get("method") == "fine-tuned" else ""
        kind = f"trunk of mcl ({spec.backbone}){inside}"
        return kind, state, [f"{'trained' if inside else 'pre-trained'}: {parts_of(trained)}"], trained
    kind, state, notes = read_foreign(source, image_size)
    return kind, state, notes, pieces_in(state)


def _is_ours(path: Path) -> bool:
    kind = what_is_there(path)
    if kind == "folder":
        return not (path / "config.json").is_file()  # a run folder, finished or not; read_trunk tells
    if path.name in (TRUNK_FILE, DETECTOR_FILE):
        return True  # read_trunk says what is wrong with it
    return kind == "file" and is_safetensors(path) and not {"spec", "plan"}.isdisjoint(safetensors_metadata(path))


def _aligned(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's tensors under the names of the trunk's backbone, and the names of a classifier's."""
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    names = [name.removeprefix(BODY) for name in wanted if name.startswith(BODY)]
    renamed, tail = to_features(body, names)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(BODY)}
    return {**{BODY + name: tensor for name, tensor in renamed.items()}, **rest}, tail


def _with_patches(spec: TrunkSpec, state: Mapping[str, Tensor]) -> TrunkSpec:
    """A plain transformer's spec with the patches that its tensors have, where these are not the name's."""
    patches = state.get(f"{BODY}patch_embed.proj.weight")
    if patches is None or patches.dim() != 4 or not spec.plain or patches.shape[-1] == patch_of(spec.backbone):
        return spec
    return replace(spec, patch_size=patches.shape[-1])


def _positions_fitted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """A transformer's position embeddings interpolated to the grid that is wanted; and a note of it."""
    name = f"{BODY}pos_embed"
    if name not in state or name not in wanted or state[name].shape == wanted[name].shape:
        return dict(state), []
    fitted = fitted_positions(state[name], wanted[name])
    if fitted is None:
        return dict(state), []  # of another width: the report tells
    sides = [round((tensor.shape[1] - 1) ** 0.5) for tensor in (state[name], wanted[name])]
    note = f"position embeddings are interpolated from {sides[0]} x {sides[0]} cells to {sides[1]} x {sides[1]}"
    return {**state, name: fitted}, [note]


def _resnet_name(source: Path | str, kind: str, state: Mapping[str, Tensor]) -> str:
    shape = ResnetShape.of(_body(state))
    if shape is None:
        raise UserError(
            f"--trunk {source}: its architecture cannot be told ({kind}); a timm folder with config.json tells it"
        )
    differs = shape.stem_differs()
    if differs or shape.name is None:
        raise UserError(
            f"--trunk {source}: {differs or f'no ResNet that timm has: blocks {shape.counts}, groups {shape.groups}'}"
        )
    return shape.name


def _explain_architecture(
    name: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], backbone: str, allow_partial: bool
) -> None:
    """A different ResNet, or another stem, in words instead of a list of tensors."""
    theirs, ours = ResnetShape.of(_body(state)), ResnetShape.of(_body(wanted))
    if theirs is None or ours is None or theirs == ours:
        return
    same_blocks = (theirs.block, theirs.counts, theirs.groups, theirs.width) == (
        ours.block,
        ours.counts,
        ours.groups,
        ours.width,
    )
    if not same_blocks:
        there = theirs.name or f"ResNet with blocks {theirs.counts}"
        raise UserError(
            f"{name}: it is a {there}, the trunk's backbone a {backbone}; set --model.backbone {theirs.name or '...'}"
        )
    if not allow_partial and theirs.stem != ours.stem:
        differs = theirs.stem_differs() or "its stem is 7x7, the trunk's is not"
        raise UserError(f"{name}: {differs}, as {backbone} has; --allow_partial loads all but the stem")


def _body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
