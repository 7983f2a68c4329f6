"""`/storage/v1` through supabase-js: forms, raw bodies and streams, and the errors that its callers branch on."""

from __future__ import annotations

from tests.support.node import run_script
from tests.support.stack import Stack


async def test_people_keep_files_in_their_own_folder(stack: Stack, docs: str) -> None:
    seen = await run_script("storage.mjs", stack)
    folder = seen["folder"]

    assert seen["created"] == {"name": "pictures"}
    assert (seen["bucket"]["public"], seen["bucket"]["file_size_limit"]) == (True, 2000)
    assert seen["bucket"]["allowed_mime_types"] == ["image/*"]
    assert seen["buckets"] == ["docs", "pictures"]

    assert seen["form"]["fullPath"] == f"docs/{folder}/form.txt"
    assert seen["form"]["id"] == seen["info"]["id"]
    assert (seen["info"]["contentType"], seen["info"]["metadata"], seen["info"]["size"]) == (
        "text/plain",
        {"by": "ada"},
        7,
    )
    assert (seen["rawInfo"]["contentType"], seen["rawInfo"]["metadata"]) == ("x/y", {"n": 1})
    assert (seen["text"], seen["bytes"], seen["streamed"]) == ("changed", [0, 1, 255], "as a stream")

    assert seen["fetched"]["status"] == 200
    assert "my%20file.bin" in seen["fetched"]["disposition"]
    assert [(url["path"], url["signed"]) for url in seen["signedUrls"]] == [
        (f"{folder}/form.txt", True),
        ("nobody", False),
    ]
    assert seen["letter"] == "a letter"
    assert seen["copied"] == {"path": f"docs/{folder}/copy.txt"}
    assert seen["moved"]["message"] == "Successfully moved"
    files = ["form.txt", "letter.txt", "raw file.bin", "stream.txt"]
    assert seen["listed"] == ["deep", *files]
    assert seen["paged"] == {"folders": [f"{folder}/deep/"], "objects": [f"{folder}/{name}" for name in files]}
    assert seen["exists"] == [True, False]
    assert seen["notTheirs"] == []
    assert seen["open"] == {"status": 200, "type": "image/png"}
    assert sorted(seen["removed"]) == [f"{folder}/deep/moved.txt", f"{folder}/form.txt"]

    assert {error["name"] for error in seen["errors"].values()} == {"StorageApiError"}
    assert {attempt: (error["statusCode"], error["code"]) for attempt, error in seen["errors"].items()} == {
        "duplicate": ("409", "KeyAlreadyExists"),
        "hidden": ("404", "NoSuchKey"),
        "refused": ("403", "AccessDenied"),
        "wrongType": ("415", "InvalidMimeType"),
        "tooLarge": ("413", "EntityTooLarge"),
        "image": ("403", "FeatureNotEnabled"),
        "notEmpty": ("409", "ResourceNotEmpty"),
    }
