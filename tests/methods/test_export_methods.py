"""What every method deploys can be exported, whatever parts it predicts with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import CASES, COUNTS, SIZE, Case

from longtail.data.preprocessing import Preprocessing
from longtail.engine.description import FORMAT, Description
from longtail.engine.predictor import Predictor
from longtail.ship.graph import Graph, write_graph
from longtail.ship.runtime import Exported

# As each method ends, with its defaults; and with the routers of RIDE, which deploy more.
LAST = [case for case in CASES if case.stage == case.stages[-1].name and (not case.options or case.stage == "routers")]


@pytest.mark.parametrize("case", LAST, ids=lambda case: case.name)
def test_what_is_deployed_can_be_exported(case: Case, tmp_path: Path) -> None:
    method = case.build(torch.float32).eval()
    method.before_evaluation()
    pixels = Preprocessing(resize=SIZE, image_size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    description = Description(
        format=FORMAT,
        method=case.method,
        options=dict(case.options),
        backbone="resnet8",
        classes=tuple("abcdef"),
        class_counts=COUNTS,
        preprocessing=pixels,
        parameters=0,
        export={
            "form": "torchscript",
            "file": "model.ts",
            "output": "logits" if method.classifies() else "embeddings",
            "preprocess": False,
            "temperature": 1.0,
        },
    )
    predictor = Predictor(method, description, torch.device("cpu"))
    graph = Graph(predictor, preprocess=False, temperature=1.0, shift=None)
    write_graph(graph, "torchscript", tmp_path)
    images = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))  # more than the example's two
    with torch.inference_mode():
        torch.testing.assert_close(Exported(tmp_path, description)(images), predictor(images), rtol=1e-4, atol=1e-4)
    torch.export.export(graph, (graph.example(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
