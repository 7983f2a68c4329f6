"""Settings come from Supabase's own variables, today's and the legacy ones, and say by name what is wrong."""

from __future__ import annotations

import pytest

from shared.settings import Settings, SettingsError

URL = {"SUPABASE_URL": "https://abc.supabase.co/"}


def test_todays_keys_come_before_the_legacy_ones():
    settings = Settings.from_environment(
        {
            **URL,
            "SUPABASE_PUBLISHABLE_KEYS": '{"web": "sb_publishable_web", "default": "sb_publishable_1"}',
            "SUPABASE_ANON_KEY": "anon-jwt",
            "SUPABASE_SECRET_KEYS": '{"default": "sb_secret_1"}',
            "SUPABASE_SERVICE_ROLE_KEY": "service-jwt",
        }
    )

    assert settings.publishable_keys == ("sb_publishable_1", "sb_publishable_web", "anon-jwt")
    assert settings.secret_keys == ("sb_secret_1", "service-jwt")
    assert settings.issuer == "https://abc.supabase.co/auth/v1"


def test_a_legacy_project_is_enough():
    settings = Settings.from_environment({**URL, "SUPABASE_ANON_KEY": "anon-jwt"})

    assert settings.publishable_key == "anon-jwt"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "SUPABASE_URL is missing, and has no default."),
        ({"SUPABASE_URL": "ftp://x"}, "SUPABASE_URL is not an http or https URL."),
        ({**URL, "SUPABASE_SECRET_KEYS": "sb_secret_1"}, "SUPABASE_SECRET_KEYS is not JSON (line 1, column 1)."),
        ({**URL, "SUPABASE_SECRET_KEYS": "[]"}, "SUPABASE_SECRET_KEYS is not a JSON object."),
        (
            {**URL, "SUPABASE_SECRET_KEYS": '{"default": 1}'},
            'SUPABASE_SECRET_KEYS must map names to keys, as {"default": "sb_..."}.',
        ),
    ],
)
def test_what_is_wrong_is_said_by_name_and_never_by_content(environment: dict[str, str], message: str):
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment(environment)

    assert str(refusal.value) == message


def test_a_function_without_the_secret_key_says_so_when_it_needs_it():
    with pytest.raises(SettingsError, match="SUPABASE_SECRET_KEYS or SUPABASE_SERVICE_ROLE_KEY is missing"):
        _ = Settings.from_environment(URL).secret_key


def test_secrets_stay_out_of_a_settings_text():
    settings = Settings.from_environment(
        {**URL, "SUPABASE_SECRET_KEYS": '{"default": "sb_secret_1"}', "SUPABASE_JWT_SECRET": "hush-hush"}
    )

    assert "sb_secret_1" not in repr(settings)
    assert "hush-hush" not in repr(settings)
