"""`/auth/v1` through supabase-js: the same journeys, and the error classes that its callers branch on."""

from __future__ import annotations

from local.auth_settings import AuthSettings
from tests.support.node import run_script
from tests.support.stack import stack_over


async def test_a_user_signs_up_refreshes_signs_in_elsewhere_and_signs_out(stack):
    seen = await run_script("auth_journey.mjs", stack)
    user = seen["user"]
    assert user["email"] == "ada@example.com"
    assert user["user_metadata"]["nickname"] == "ada"
    assert user["id"] == seen["sessionUser"] == seen["subject"] == seen["signedInUser"] == seen["alive"]
    assert seen["algorithm"] == "ES256"
    assert seen["refreshedToken"]
    assert seen["sameSession"]
    assert seen["metadata"]["theme"] == "dark"
    assert "nickname" not in seen["metadata"]
    assert seen["guest"] is True
    # The client takes a revoked session for none at all, and signs itself out.
    assert seen["ended"]["name"] == "AuthSessionMissingError"
    assert seen["afterSignOut"] == "refresh_token_not_found"
    expected = ["INITIAL_SESSION", "SIGNED_IN", "TOKEN_REFRESHED", "USER_UPDATED", "SIGNED_OUT"]
    assert [event for event in seen["events"] if event in expected] == seen["events"]
    assert set(seen["events"]) == set(expected)


async def test_refusals_are_the_errors_that_applications_know(stack):
    seen = await run_script("auth_refusals.mjs", stack)
    assert {attempt: (error["status"], error["code"]) for attempt, error in seen.items()} == {
        "weakPassword": (422, "weak_password"),
        "takenAddress": (422, "user_already_exists"),
        "wrongPassword": (400, "invalid_credentials"),
        "samePassword": (422, "same_password"),
        "unknownRefreshToken": (400, "refresh_token_not_found"),
        "notAdmin": (403, "not_admin"),
    }
    assert seen["weakPassword"]["name"] == "AuthWeakPasswordError"
    assert seen["weakPassword"]["reasons"] == ["length"]


async def test_the_secret_key_administers_users(stack):
    seen = await run_script("auth_admin.mjs", stack)
    assert seen["page"] == [seen["ids"][2], seen["ids"][1]]
    assert (seen["total"], seen["nextPage"], seen["lastPage"]) == (3, 2, 2)
    assert seen["plan"] == "pro"
    assert seen["banned"] == "user_banned"
    assert seen["gone"] == {"status": 404, "code": "user_not_found"}


async def test_mails_confirm_recover_and_change_addresses(database_url):
    async with stack_over(database_url, auth=AuthSettings(mailer_autoconfirm=False)) as stack:
        seen = await run_script("auth_mails.mjs", stack)
    assert seen["pending"] is None
    assert seen["early"] == "email_not_confirmed"
    assert seen["landedOn"] == "http://127.0.0.1:3000"
    assert seen["confirmed"]
    assert seen["hidden"] == {"identities": [], "sameId": False}
    assert seen["byCode"] == seen["recovered"] == "ada@example.com"
    assert seen["resetAt"] == "http://localhost:5173/reset"
    assert "PASSWORD_RECOVERY" in seen["events"]
    assert seen["changed"] == seen["linked"] == seen["byHash"] == "lovelace@example.com"
    assert seen["used"] == {"status": 403, "code": "otp_expired"}
    assert seen["stranger"] == "otp_disabled"
    assert (seen["invitation"], seen["verificationType"]) == ("invite", "magiclink")
