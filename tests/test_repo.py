"""The checkout itself: every function is served and deployable, every package has its reason, every script its help."""

from __future__ import annotations

import importlib
import os
import re
import tomllib

import pytest

from local.config import PROJECT_DIR
from local.functions import load_functions

FUNCTIONS = sorted(path.parent.name for path in (PROJECT_DIR / "functions").glob("*/app.py"))
PROJECT = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
PACKAGES = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
SCRIPTS = sorted(path.name for path in (PROJECT_DIR / "scripts").iterdir() if "." not in path.name)


def test_every_folder_of_functions_is_a_function():
    folders = (path for path in (PROJECT_DIR / "functions").iterdir() if path.is_dir() and path.name != "__pycache__")
    assert sorted(path.name for path in folders) == FUNCTIONS


def test_the_gateway_serves_every_function_by_its_slug():
    assert sorted(load_functions(PROJECT_DIR / "functions")) == sorted(name.replace("_", "-") for name in FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_exports_an_application_and_a_lambda_handler(name):
    module = importlib.import_module(f"functions.{name}.app")
    assert callable(module.app)
    assert callable(module.handler)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_docstring_names_its_own_path(name):
    module = importlib.import_module(f"functions.{name}.app")
    assert f"/functions/v1/{name.replace('_', '-')}" in (module.__doc__ or "")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_a_range_and_a_reason(package):
    named = re.fullmatch(r"(?P<name>[a-z0-9-]+)(\[[a-z,]+\])?>=[0-9.]+,<[0-9.]+", package)
    assert named is not None, package
    reasons = (PROJECT_DIR / "docs" / "dependencies.md").read_text()
    assert re.search(rf"^\| `{named['name']}` \| .+ \|$", reasons, re.MULTILINE)


def test_no_reason_is_given_for_a_package_that_is_gone():
    reasons = (PROJECT_DIR / "docs" / "dependencies.md").read_text()
    names = {re.split(r"[\[>]", package)[0] for package in PACKAGES}
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", reasons, re.MULTILINE)) == names


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_says_what_it_does_and_can_be_started(name):
    path = PROJECT_DIR / "scripts" / name
    lines = path.read_text().splitlines()
    assert len(lines) <= 20
    if not name.startswith("_"):
        assert os.access(path, os.X_OK)
        assert lines[0] == "#!/bin/sh"
        assert lines[1].startswith("# ")
