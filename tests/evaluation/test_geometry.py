import numpy as np
import pytest
import torch

from longtail.errors import LongtailError, UsageError
from longtail.evaluation import geometry as module
from longtail.evaluation.geometry import geometry

SHOTS = ("many", "many", "medium", "medium", "few", "few", "few")


def simplex(classes=7, dim=12):
    """A simplex equiangular tight frame [classes, dim], randomly turned: unit rows at cosine -1 / (classes - 1)."""
    random = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(dim, classes, generator=random, dtype=torch.float64))[0]
    frame = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return (classes / (classes - 1)) ** 0.5 * frame @ basis.T


def blobs(images=300, classes=7, dim=12, seed=0):
    """Long-tailed Gaussian classes of different widths around random means, off the origin, and a random classifier."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(images, generator=random) ** 2 * classes).long()
    means = torch.randn(classes, dim, generator=random) + 1
    noise = torch.randn(images, dim, generator=random) * torch.linspace(0.2, 1, classes)[labels, None]
    rows = means + torch.randn(classes, dim, generator=random)
    return means[labels] + noise, labels, rows, torch.randn(classes, generator=random)


def reference(features, labels, rows, bias):
    """The definitions, in numpy loops."""
    x, y, w, b = (t.double().numpy() if t.is_floating_point() else t.numpy() for t in (features, labels, rows, bias))
    cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    present = [c for c in range(len(w)) if (y == c).any()]
    mean = {c: x[y == c].mean(0) for c in present}
    centre = np.mean([mean[c] for c in present], 0)
    others = {c: [cos(mean[c], mean[k]) for k in present if k != c] for c in present}
    angle = {c: [np.degrees(np.arccos(cos(w[c], w[k]))) for k in range(len(w)) if k != c] for c in range(len(w))}
    per_class = {
        "compactness": [np.mean([cos(v, mean[c]) for v in x[y == c]]) for c in present],
        "separability": [1 - np.mean(others[c]) for c in present],
        "separability_min": [1 - max(others[c]) for c in present],
        "alignment": [cos(mean[c] - centre, w[c]) for c in present],
    }
    sw = np.mean([np.cov(x[y == c].T, bias=True) for c in present], 0)
    m = np.stack([mean[c] - centre for c in present])
    norms = np.linalg.norm(m, axis=1)
    pairs = [cos(m[i], m[j]) for i in range(len(m)) for j in range(len(m)) if i != j]
    nearest = [present[np.argmin([np.linalg.norm(v - mean[c]) for c in present])] for v in x]
    wp = w[present]
    return per_class, {
        **{name: np.mean(value) for name, value in per_class.items()},
        "separability_min": min(per_class["separability_min"]),
        "row_angle_mean": np.mean([*angle.values()]),
        "row_angle_std": np.std([*angle.values()]),
        "row_angle_min": np.min([*angle.values()]),
        "nc1": np.trace(sw @ np.linalg.pinv(m.T @ m / len(m), rcond=1e-10)) / len(m),
        "nc2_norm_cv": norms.std() / norms.mean(),
        "nc2_cosine_std": np.std(pairs),
        "nc2_cosine_gap": np.mean([abs(p + 1 / (len(m) - 1)) for p in pairs]),
        "nc3": np.linalg.norm(wp / np.linalg.norm(wp) - m / np.linalg.norm(m)),
        "nc4": np.mean(nearest == (x @ w.T + b).argmax(1)),
    }


@pytest.mark.parametrize("chunk", [512, 3])
@pytest.mark.parametrize("dim", [12, 4])  # more and fewer dimensions than classes
def test_agrees_with_the_definitions(monkeypatch, chunk, dim):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    features, labels, rows, bias = blobs(dim=dim)
    per_class, total = reference(features, labels, rows, bias)
    found = geometry([(features, labels)], rows, bias, SHOTS)
    assert {name: found["all"][name] for name in total} == pytest.approx(total, rel=1e-9)
    for name, expected in per_class.items():
        assert found["per_class"][name] == pytest.approx(expected, rel=1e-9)
    assert found["few"]["compactness"] == pytest.approx(np.mean(per_class["compactness"][4:]))
    assert found["many"]["separability_min"] == pytest.approx(min(per_class["separability_min"][:2]))


def test_collapsed_features_on_a_simplex():
    frame, labels = simplex(), torch.arange(7).repeat_interleave(torch.tensor([9, 8, 7, 5, 3, 2, 1]))
    shift = torch.full((12,), 5.0, dtype=torch.float64)  # neural collapse does not care where the centre lies
    total = geometry([(3 * frame[labels] + shift, labels)], 2 * frame, None, SHOTS)["all"]
    zeros = ("nc1", "nc2_norm_cv", "nc2_cosine_std", "nc2_cosine_gap", "nc2_norm_cv_rows", "nc2_cosine_std_rows", "nc3")
    assert [total[name] for name in zeros] == pytest.approx([0] * len(zeros), abs=1e-7)
    assert total["alignment"] == pytest.approx(1)
    assert total["row_angle_mean"] == pytest.approx(np.degrees(np.arccos(-1 / 6)))
    assert total["row_angle_std"] == pytest.approx(0, abs=1e-6)
    centred = geometry([(3 * frame[labels], labels)], 2 * frame, None, SHOTS)["all"]
    assert centred["compactness"] == pytest.approx(1)
    assert centred["separability"] == pytest.approx(1 + 1 / 6)
    assert centred["separability_min"] == pytest.approx(1 + 1 / 6)
    assert centred["nc4"] == 1


def test_nc1_of_noise_of_known_size():
    """Class means on a simplex and, along its own axes, noise of variance v: tr(Sw pinv(Sb)) / C is known."""
    frame = simplex()
    steps = torch.linalg.svd(frame)[2][:6] * 0.3  # an orthogonal basis of the simplex's six dimensions
    offsets = torch.cat([steps, -steps])
    features = (frame[:, None] + offsets).flatten(0, 1)
    found = geometry([(features, torch.arange(7).repeat_interleave(12))], frame, None, SHOTS)["all"]["nc1"]
    variance_within, variance_between = 0.3**2 * 2 / 12, 1 / 6  # per dimension; the frame's rows have length 1
    assert found == pytest.approx(6 * variance_within / variance_between / 7)


def test_turning_features_and_rows_together_changes_nothing():
    features, labels, rows, bias = blobs()
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    before = geometry([(features, labels)], rows, bias, SHOTS)
    after = geometry([(features.double() @ turn, labels)], rows.double() @ turn, bias, SHOTS)
    for part in ("all", "many", "medium", "few"):
        assert after[part] == pytest.approx(before[part], rel=1e-8)


def test_images_of_a_frequent_class_weigh_no_more_than_those_of_a_rare_one():
    features, labels, rows, bias = blobs()
    doubled = torch.cat([features, features[labels == 0]]), torch.cat([labels, labels[labels == 0]])
    before = geometry([(features, labels)], rows, bias, SHOTS)["all"]
    after = geometry([doubled], rows, bias, SHOTS)["all"]
    assert before.pop("nc4") != after.pop("nc4")  # the one share of images
    assert after == pytest.approx(before, rel=1e-9)


def test_batches_do_not_matter():
    features, labels, rows, bias = blobs()
    whole = geometry([(features, labels)], rows, bias, SHOTS)
    parts = geometry(list(zip(features.split(7), labels.split(7), strict=True)), rows, bias, SHOTS)
    assert parts["all"] == pytest.approx(whole["all"], rel=1e-9)
    assert parts["per_class"]["images"] == labels.bincount().tolist()


def test_row_angles_by_shot_are_of_pairs_within_it():
    features, labels, _, _ = blobs(dim=3)
    rows = torch.tensor([[1, 0, 0], [0, 2, 0], [0, 0, 1], [0, 0, -3], [1, 0, 0], [1, 1, 0], [0, 1.0, 0]])
    found = geometry([(features, labels)], rows, None, SHOTS)
    assert found["many"]["row_angle_mean"] == pytest.approx(90)
    assert found["medium"]["row_angle_mean"] == pytest.approx(180)
    few = [45, 45, 90]
    assert found["few"]["row_angle_mean"] == pytest.approx(np.mean(few))
    assert found["few"]["row_angle_std"] == pytest.approx(np.std(few))
    assert found["few"]["row_angle_min"] == pytest.approx(45)
    assert found["per_class"]["row_angle_mean"][2] == pytest.approx((5 * 90 + 180) / 6)
    assert found["all"]["row_angle_min"] == pytest.approx(0, abs=1e-5)


def test_classes_without_images_are_left_out():
    features, labels, rows, bias = blobs()
    keep = (labels != 1) & (labels < 4)
    features, labels = features[keep], labels[keep]
    per_class, total = reference(features, labels, rows, bias)
    found = geometry([(features, labels)], rows, bias, SHOTS)
    assert {name: found["all"][name] for name in total} == pytest.approx(total, rel=1e-9)
    compactness = found["per_class"]["compactness"]
    assert [compactness[c] for c in (0, 2, 3)] == pytest.approx(per_class["compactness"])
    assert [compactness[c] for c in (1, 4, 5, 6)] == [None] * 4
    assert found["few"]["compactness"] is None
    assert found["few"]["row_angle_mean"] is not None


def test_a_shot_of_one_class_has_no_row_angles():
    features, labels, rows, bias = blobs(classes=3)
    found = geometry([(features, labels)], rows, bias, ("many", "many", "few"))
    assert found["few"]["row_angle_mean"] is None
    assert found["medium"] == dict.fromkeys(found["medium"])


def test_what_cannot_be_measured_is_refused():
    features, labels, rows, bias = blobs()
    with pytest.raises(UsageError, match="only 1 of 7"):
        geometry([(features, torch.zeros_like(labels))], rows, bias, SHOTS)
    with pytest.raises(UsageError, match="twice"):
        geometry(iter([(features, labels)]), rows, bias, SHOTS)
    features[5, 2] = float("nan")
    with pytest.raises(LongtailError, match="not finite"):
        geometry([(features, labels)], rows, bias, SHOTS)
