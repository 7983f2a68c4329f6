"""Where a link may lead: the site, this machine, what the list allows, and nowhere else."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.auth.redirects import is_allowed, with_fragment, with_query
from local.auth_settings import AuthSettings
from tests.support.auth import follow, last_mail, new_email
from tests.support.stack import PASSWORD, stack_over

LISTED = AuthSettings(
    site_url="https://app.example.com/start",
    uri_allow_list=("https://*.example.org/**", "https://one.example.net/*/done", "my.app://**", "http://exact.test/x"),
    allow_loopback_redirects=False,
)
LOOPBACK = AuthSettings(site_url="https://app.example.com")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example.com",
        "https://APP.example.com/any/where?x=1#y",
        "https://a.example.org/deep/er.html",
        "https://one.example.net/job/done",
        "my.app://login/callback",
        "http://exact.test/x?anything=1",
    ],
)
def test_the_site_and_the_list_are_allowed(url):
    assert is_allowed(url, LISTED)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//app.example.com/x",
        "http://app.example.com/",
        "https://app.example.com:8443/",
        "https://app.example.com@evil.test/",
        "https://evil.test/?https://app.example.com",
        "https://evil.test\\@app.example.com/",
        "https://evil.test#@a.example.org/",
        "https://evil.test?.example.org/",
        "https://a.b.example.org/x",
        "https://evil.test/.example.org/x",
        "https://one.example.net/job/er/done",
        "http://exact.test/xy",
        "http://127.0.0.1:3000/",
        "javascript:alert(1)//my.app://",
        "data:text/html,x",
        "https://app.example.com:port/",
        "https://[app.example.com/",
        "https://app.example.com/\nx",
        "https://app.example.com/" + "x" * 3000,
    ],
    ids=lambda url: url[:60],
)
def test_nothing_else_is(url):
    assert not is_allowed(url, LISTED)


@pytest.mark.parametrize("host", ["127.0.0.1:5173", "localhost", "127.8.9.10:1", "[::1]:3000"])
def test_every_port_of_this_machine_is_allowed_unless_switched_off(host):
    assert is_allowed(f"http://{host}/x", LOOPBACK)
    assert not is_allowed(f"http://{host}/x", LISTED)


@pytest.mark.parametrize(
    "url", ["http://localhost.evil.test/", "http://127.0.0.1.evil.test/", "http://2130706433/", "ftp://localhost/"]
)
def test_what_only_looks_like_this_machine_is_not(url):
    assert not is_allowed(url, LOOPBACK)


@given(st.text(max_size=60) | st.from_regex(r"\A(https?|my\.app|x)://[a-z.@:\[\]\\/?#*]{0,40}\Z"))
def test_whatever_is_allowed_has_a_scheme_and_takes_what_is_added(url):
    if is_allowed(url, LISTED):
        landing = urlsplit(with_fragment(with_query(url, {"code": "1"}), {"message": "m"}))
        assert landing.scheme
        assert "code=1" in landing.query
        assert landing.fragment == "message=m&sb="


async def test_a_stranger_s_page_is_replaced_by_the_site_when_asked_for_and_when_followed(database_url):
    auth = AuthSettings(mailer_autoconfirm=False, site_url="https://app.example.com/start")
    async with stack_over(database_url, auth=auth) as stack:
        client, email = await stack.client(flow_type="implicit"), new_email()
        evil = {"email_redirect_to": "https://evil.test/steal"}
        await client.auth.sign_up({"email": email, "password": PASSWORD, "options": evil})
        link = (await last_mail(stack, email))["link"]
        assert "evil" not in link
        forged = link.replace("app.example.com", "evil.test")
        assert (await follow(forged)).url == "https://app.example.com/start"


async def test_a_link_that_says_too_little_is_refused_and_leads_nowhere(stack):
    async with httpx.AsyncClient(base_url=f"{stack.url}/auth/v1") as browser:
        for query in ("", "?token=x", "?type=signup", "?type=&token=x"):
            answer = await browser.get(f"/verify{query}")
            assert (answer.status_code, answer.json()["error_code"]) == (400, "validation_failed"), query
    landing = await follow(f"{stack.url}/auth/v1/verify?type=sms&token=x&redirect_to=http://localhost:9/a%23b")
    assert landing.url == "http://localhost:9/a"
    assert landing.fragment["error"] == "invalid_request"
