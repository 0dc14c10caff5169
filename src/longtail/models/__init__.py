"""Backbones and heads."""

from .backbone import Backbone
from .build import backbone_names, build_backbone, check_image_size, count_parameters, is_backbone, timm_name

__all__ = [
    "Backbone",
    "backbone_names",
    "build_backbone",
    "check_image_size",
    "count_parameters",
    "is_backbone",
    "timm_name",
]
