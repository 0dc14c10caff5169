"""Losses as plain functions and modules of tensors: all that a training loop of one's own needs of this package.

>>> import torch
>>> from longtail import losses
>>> logits, labels, counts = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([90, 9, 1])
>>> losses.logit_adjusted_cross_entropy(logits, labels, counts)  # Balanced Softmax
tensor(1.8060)
>>> losses.ClassifierLoss("focal", counts, gamma=1.0)(logits, labels)
tensor(0.7324)
"""

from __future__ import annotations

from ..losses.class_weights import effective_number_weights
from .bbn import branch_share, join_branches
from .bce import bce, bce_per_sample
from .bce3s import draw_class_mask, prototype_loss, uniform_loss, update_class_memory
from .class_balanced import class_balanced_bce, class_balanced_focal, class_balanced_sigmoid, class_balanced_softmax
from .classifier import ClassifierLoss
from .contrastive import balanced_contrastive, supcon
from .glmc import consistency, conventional_share, mixed_cross_entropy
from .isda import confusion_graph, prototype_shift, spread, update_statistics
from .margin_head import Epl, MarginHead
from .ncl import nested
from .norm import maxnorm_radius, project_rows_
from .paco import paco
from .proco import concentration, proco_logits, update_means
from .prototypes import update_prototypes
from .queue_contrast import queue_contrastive
from .ride import class_temperatures, distillation, diversity, routing_loss
from .sade import aggregate, inverse_prior, skill_shifts
from .softmax import adjust_logits, cross_entropy, focal, ldam, ldam_margins, logit_adjusted_cross_entropy

__all__ = [
    "ClassifierLoss",
    "Epl",
    "MarginHead",
    "adjust_logits",
    "aggregate",
    "balanced_contrastive",
    "bce",
    "bce_per_sample",
    "branch_share",
    "class_balanced_bce",
    "class_balanced_focal",
    "class_balanced_sigmoid",
    "class_balanced_softmax",
    "class_temperatures",
    "concentration",
    "confusion_graph",
    "consistency",
    "conventional_share",
    "cross_entropy",
    "distillation",
    "diversity",
    "draw_class_mask",
    "effective_number_weights",
    "focal",
    "inverse_prior",
    "join_branches",
    "ldam",
    "ldam_margins",
    "logit_adjusted_cross_entropy",
    "maxnorm_radius",
    "mixed_cross_entropy",
    "nested",
    "paco",
    "proco_logits",
    "project_rows_",
    "prototype_loss",
    "prototype_shift",
    "queue_contrastive",
    "routing_loss",
    "skill_shifts",
    "spread",
    "supcon",
    "uniform_loss",
    "update_class_memory",
    "update_means",
    "update_prototypes",
    "update_statistics",
]
