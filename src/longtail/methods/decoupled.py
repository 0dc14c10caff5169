"""The methods that are cross-entropy and one second stage: with their authors' first stage, or on any run by --from."""

from __future__ import annotations

from . import balms, los, lws, maxnorm, metasaug, ncm, retraining, risda, tau_norm
from .plain import PlainMethod
from .second_stage import followed_by

_FEATURES = ("train",)  # which any run has learned
CRT = followed_by(PlainMethod, {"crt": retraining.CRT()}, _FEATURES)
LWS = followed_by(PlainMethod, {"lws": lws.LWS()}, _FEATURES)
LOS = followed_by(PlainMethod, {"los": los.LOS()}, _FEATURES)
BALMS = followed_by(PlainMethod, {"balms": balms.BALMS()}, _FEATURES)
TauNorm = followed_by(PlainMethod, {"tau_norm": tau_norm.TauNorm()}, _FEATURES)
NCM = followed_by(PlainMethod, {"ncm": ncm.NCM()}, _FEATURES)

WeightBalancing = followed_by(PlainMethod, {"maxnorm": maxnorm.MaxNorm()}, _FEATURES)
WeightBalancing.rates_are_its_own = True
WeightBalancing.train_defaults = {"lr": 0.01, "weight_decay": 5e-3, "batch_size": 64, "epochs": 320}

RISDA = followed_by(PlainMethod, {"risda": risda.RISDA()}, _FEATURES)
MetaSAug = followed_by(PlainMethod, {"metasaug": metasaug.MetaSAug()}, _FEATURES)
# Cross-entropy for the first 160 of 200 epochs, at lr 0.1 until the last of them.
RISDA.train_defaults = MetaSAug.train_defaults = {
    "epochs": 160,
    "batch_size": 100,
    "nesterov": True,
    "schedule": "step",
    "milestones": (159 / 160,),
    "drop": 0.01,
}
