"""The project's own files agree with one another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import longtail

ROOT = Path(__file__).parents[1]


def test_the_workflow_tests_every_python_that_is_supported():
    supported = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    versions = [f"3.{minor}" for minor in range(*map(int, supported.groups()))]
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == versions
    assert {"oldest", "newest"} == {row["dependencies"] for row in matrix["include"]}


def test_one_version():
    version = longtail.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_fetch_nothing():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    assert {"ruff", "ruff-format", "mypy"} == {hook["id"] for hook in repositories[0]["hooks"]}


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_templates_are_forms(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["attributes"].keys() & {"label"} for part in form["body"])


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
