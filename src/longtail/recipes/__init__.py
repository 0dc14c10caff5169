"""Recipes: a dataset and a method with its authors' hyper-parameters, the figures they reported, and where.

One YAML file per method; the recipes in it are named ``<method>/<setting>``, for instance ``glmc/cifar10-lt-100``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from ..config import DataConfig, FinetuneConfig, Section, TrainConfig, merge, validate
from ..errors import UsageError, unknown_name
from ..plain_yaml import load_yaml, read_yaml


class Reported(Section):
    """A figure from a paper: accuracies in percent, and where they stand."""

    top1: float
    many: float | None = None
    medium: float | None = None
    few: float | None = None
    source: str
    note: str | None = None


class Recipe(Section):
    """What `--recipe` lays over the defaults. `data`, `train` and `options` hold only what the recipe decides."""

    method: str
    about: str = Field(description="one line: dataset, network, what it reproduces")
    backbone: str = "resnet32"
    pretrained: bool = False
    finetune: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    reported: list[Reported] = Field(default_factory=list)

    def overrides(self) -> dict[str, Any]:
        return self.model_dump(include={"backbone", "pretrained", "finetune", "data", "train", "options"})


@cache
def all_recipes() -> dict[str, Recipe]:
    """Every packaged recipe by name."""
    recipes: dict[str, Recipe] = {}
    for file in sorted(files(__name__).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            recipes |= _read_file(read_yaml(file.read_text()), file.name)
    return recipes


def _read_file(content: dict[str, Any], where: str) -> dict[str, Recipe]:
    """A file is `method`, `shared` (laid under every recipe) and `recipes` (setting: recipe)."""
    method = content["method"]
    return {
        f"{method}/{setting}": check(
            merge(content.get("shared", {}), recipe) | {"method": method}, f"{where}: {setting}"
        )
        for setting, recipe in content["recipes"].items()
    }


def check(content: dict[str, Any], where: str) -> Recipe:
    """Validate a recipe and the sections in it. Raises `UsageError`."""
    recipe: Recipe = validate(Recipe, content, where)
    validate(DataConfig, recipe.data, f"{where}: data")
    validate(FinetuneConfig, recipe.finetune, f"{where}: finetune")
    validate(TrainConfig, recipe.train, f"{where}: train")
    return recipe


def find_recipe(method: str, name: str) -> Recipe:
    """The recipe of `method` called `name` (with or without the method before it), or the one in the YAML file `name`.

    A method that goes on with second stages ("bcl+crt") has the recipes of the one before them. Raises `UsageError` for an
    unknown name, a file that cannot be read, or a recipe of another method.
    """
    method = method.partition("+")[0]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        recipe = check({"method": method, "about": name} | load_yaml(path), name)
    else:
        full = name if "/" in name else f"{method}/{name}"
        if full not in all_recipes():
            raise unknown_name("recipe", full, all_recipes())
        recipe = all_recipes()[full]
    if recipe.method != method:
        raise UsageError(f"Recipe '{name}' is for {recipe.method}, not for {method}.")
    return recipe
