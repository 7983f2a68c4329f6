"""The settings of the auth server: read from the environment once, and wrong ones refused by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import httpx
import pytest

from local import stack as background
from local.auth_settings import AuthSettings
from local.config import PROJECT_DIR, StackConfig
from local.errors import StackError
from tests.cli.runbase import runbase


def test_without_variables_nobody_waits_for_a_mail_and_nothing_is_limited():
    settings = AuthSettings.from_environment({"GOTRUE_SITE_URL": "", "PATH": "/bin"})
    assert settings == AuthSettings()
    assert settings.mailer_autoconfirm
    assert [name for name in AuthSettings.__slots__ if name.startswith("rate_limit") and getattr(settings, name)] == []


def test_every_setting_has_a_variable():
    assert AuthSettings.variables().keys() == {f"GOTRUE_{field.name.upper()}" for field in fields(AuthSettings)}


def test_variables_are_read_as_gotrue_reads_its_own():
    settings = AuthSettings.from_environment(
        {
            "GOTRUE_SITE_URL": "https://app.example.com",
            "GOTRUE_URI_ALLOW_LIST": " https://a.example.com/** ,, my.app://**",
            "GOTRUE_MAILER_AUTOCONFIRM": "FALSE",
            "GOTRUE_MAILER_OTP_LENGTH": "8",
            "GOTRUE_SMTP_MAX_FREQUENCY": "1m30s",
            "GOTRUE_EXTERNAL_FLOW_STATE_EXPIRY_DURATION": "300",
            "GOTRUE_RATE_LIMIT_EMAIL_SENT": "2",
        }
    )
    assert settings == AuthSettings(
        site_url="https://app.example.com",
        uri_allow_list=("https://a.example.com/**", "my.app://**"),
        mailer_autoconfirm=False,
        mailer_otp_length=8,
        smtp_max_frequency=90,
        external_flow_state_expiry_duration=300,
        rate_limit_email_sent=2,
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GOTRUE_SITE_URL", "app.example.com"),
        ("GOTRUE_SITE_URL", "http://[x"),
        ("GOTRUE_MAILER_AUTOCONFIRM", "perhaps"),
        ("GOTRUE_MAILER_OTP_LENGTH", "5"),
        ("GOTRUE_MAILER_OTP_EXP", "-1"),
        ("GOTRUE_MAILER_OTP_EXP", "1" * 30),
        ("GOTRUE_SMTP_MAX_FREQUENCY", "soon"),
        ("GOTRUE_RATE_LIMIT_OTP", "0"),
        ("GOTRUE_RATE_LIMIT_OTP", "٣"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_its_variable(variable, value):
    with pytest.raises(StackError, match=rf"^{variable} must be .+, not .+\.$"):
        AuthSettings.from_environment({variable: value})


@pytest.mark.parametrize("command", ["stack", "dev"])
def test_a_command_says_so_and_names_the_variables_in_its_help(command):
    ended = runbase(command, "--port", "0", "--db-port", "0", "--ephemeral", GOTRUE_MAILER_OTP_LENGTH="5")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("Error: GOTRUE_MAILER_OTP_LENGTH must be a number from 6 to 10")
    shown = runbase(command, "--help").stdout
    assert all(variable in shown for variable in AuthSettings.variables())


def test_the_server_alone_names_them_too():
    ended = subprocess.run(
        [sys.executable, "-m", "local.server", "--help"], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    )
    assert "GOTRUE_MAILER_AUTOCONFIRM" in ended.stdout


def test_a_stack_in_the_background_goes_by_the_environment_it_was_started_in(data_dir, monkeypatch):
    monkeypatch.setenv("GOTRUE_MAILER_AUTOCONFIRM", "false")
    config = StackConfig(port=0, db_port=0, data_dir=data_dir)
    running = background.start(config)
    try:
        assert httpx.get(f"{running.auth_url}/settings").json()["mailer_autoconfirm"] is False
    finally:
        background.stop(config)
