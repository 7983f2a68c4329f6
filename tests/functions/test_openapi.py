"""What is written about the functions is what they are."""

from __future__ import annotations

import json
from pathlib import Path

from functions.openapi import DOCUMENT, ENDPOINTS, document
from shared.errors import AppError

FUNCTIONS = Path(__file__).resolve().parent.parent.parent / "functions"
API = DOCUMENT.parent / "api.md"


def test_the_document_is_current():
    assert DOCUMENT.read_bytes() == document(), "run: python -m functions.openapi"


def test_every_function_is_described_under_its_slug():
    folders = {path.parent.name.replace("_", "-") for path in FUNCTIONS.glob("*/app.py")}

    assert {endpoint.slug for endpoint in ENDPOINTS} == folders
    assert all(f"## {slug}" in API.read_text() for slug in folders)


def test_the_error_schema_is_the_body_of_errors():
    schema = json.loads(document())["components"]["schemas"]["Error"]

    assert list(schema["properties"]) == list(AppError("x").to_body())


def test_no_reference_leads_nowhere():
    text = document().decode()
    described = json.loads(text)

    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in described["components"]["schemas"]
