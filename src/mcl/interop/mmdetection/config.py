"""MMDetection 3's config for an exported trunk: it inherits Mask R-CNN R50-FPN 1x."""

from __future__ import annotations

from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.source import TrunkSource

CONFIG = """# Goes with {path!r} (mcl export). Needs MMDetection 3: python tools/train.py THIS_FILE
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

checkpoint = {path!r}
# On several GPUs take dict(type='SyncBN', requires_grad=True), as the paper does: the names are the same.
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),
    backbone=dict(
        {backbone}
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),{neck}{head})
"""
NECK = """
    neck=dict(
        in_channels={widths},
        out_channels={channels},
        norm_cfg=norm_cfg,
        init_cfg={init}),
    rpn_head=dict(in_channels={channels}, feat_channels={channels}),"""
NECK_INIT = "dict(type='Pretrained', checkpoint=checkpoint, prefix='neck.')"
NECK_FRESH = "dict(type='Xavier', layer='Conv2d', distribution='uniform')"
# The linear layers of the box head keep their own starting values: the first entry is MMDetection's, the second fills
# the convolutions. A 'Pretrained' for the whole model would leave all fresh layers without theirs.
HEAD = """
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(output_size={window}), out_channels={channels}),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels={channels},
            conv_out_channels={channels},
            roi_feat_size={window},
            norm_cfg=norm_cfg,
            init_cfg=[
                dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                dict(type='Xavier', distribution='uniform', override=[dict(name='shared_fcs')]),{init}
            ]),
        mask_roi_extractor=dict(out_channels={channels}),
        mask_head=dict(in_channels={channels}, norm_cfg=norm_cfg))"""
HEAD_INIT = """
                dict(type='Pretrained', checkpoint=checkpoint, prefix='roi_head.bbox_head.'),"""


def config_text(source: TrunkSource, shape: ResnetShape, depth: int, file: str) -> str:
    """Text of the config.

    Args:
        shape, depth: of the ResNet.
        file: name of the .pth.
    """
    spec = source.spec
    backbone = f"depth={depth},"
    if shape.groups > 1:
        backbone = f"type='ResNeXt', groups={shape.groups}, base_width={shape.width}, " + backbone
    sizes = {"widths": shape.widths, "channels": spec.pyramid_channels, "window": source.window}
    neck = NECK.format(init=NECK_INIT if source.has_pyramid else NECK_FRESH, **sizes)
    head = HEAD.format(init=HEAD_INIT if source.has_head else "", **sizes)
    mean, std = ([round(255 * value, 3) for value in values] for values in (spec.mean, spec.std))
    return CONFIG.format(path=file, mean=mean, std=std, backbone=backbone, neck=neck, head=head)
