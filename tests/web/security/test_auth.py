"""The token and the cookie: what is accepted, what counts as a failed attempt, when a cookie expires."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.security import auth as auth_module
from web.security.auth import COOKIE_S, AuthResult, TokenAuth

TOKEN = "correct-horse-battery-staple"
PORT = 8788


def check(auth, *authorizations, cookie=None):
    return auth.check(authorizations=authorizations, cookie=cookie)


def cookie_of(auth):
    return auth.cookie(PORT).split("; ")[0].partition("=")[2]


@pytest.fixture
def auth():
    return TokenAuth(TOKEN, secure=True)


def test_without_a_token_every_request_is_valid():
    """A server without a token accepts any credentials, and none."""
    auth = TokenAuth(None, secure=False)
    assert not auth.required
    assert check(auth) is check(auth, "Bearer anything") is check(auth, cookie="x") is AuthResult.VALID


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_the_token_is_valid(auth, header):
    """A scheme's case and the spaces around it do not matter (RFC 9110 §11.1)."""
    assert check(auth, header) is AuthResult.VALID


@pytest.mark.parametrize(
    "headers",
    [
        [TOKEN],
        [""],
        ["Bearer"],
        ["Bearer "],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN.upper()}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        [f"Bearer wrong, Bearer {TOKEN}"],
        ["Bearer \udcff"],
    ],
)
def test_any_other_header_is_invalid(auth, headers):
    """Anything but exactly one bearer header with the token is invalid, even beside a valid cookie."""
    assert check(auth, *headers) is AuthResult.INVALID
    assert check(auth, *headers, cookie=cookie_of(auth)) is AuthResult.INVALID


def test_missing_credentials_are_no_failed_attempt(auth):
    """No credentials, or a cookie from before the token was changed, do not count as a guess."""
    former = TokenAuth("incorrect-horse-battery-staple", secure=True)
    assert check(auth) is check(auth, cookie=cookie_of(former)) is AuthResult.MISSING


def test_every_server_with_the_token_accepts_the_cookie(auth):
    """Behind a load balancer, and after a restart, no page has to send the token again."""
    assert check(auth, cookie=cookie_of(TokenAuth(TOKEN, secure=True))) is AuthResult.VALID


def test_the_signing_key_is_not_the_token(auth):
    """It is derived from the token, so that a cookie is no signature of anything else by the token."""
    expires, _, signature = cookie_of(auth).partition(".")
    by_the_token = hmac.new(TOKEN.encode(), expires.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(f"{signature}=") != by_the_token


def test_a_cookie_is_valid_until_it_expires(auth, monkeypatch):
    """By the server's clock, not the browser's."""
    cookie = cookie_of(auth)
    assert check(auth, cookie=cookie) is AuthResult.VALID
    now_s = auth_module.time.time()
    monkeypatch.setattr(auth_module.time, "time", lambda: now_s + COOKIE_S + 1)
    assert check(auth, cookie=cookie) is AuthResult.MISSING


def test_a_cookie_of_a_server_whose_clock_is_ahead_is_valid(auth, monkeypatch):
    """Servers behind a load balancer accept each other's cookies although their clocks differ."""
    now_s = auth_module.time.time()
    monkeypatch.setattr(auth_module.time, "time", lambda: now_s + 60)
    cookie = cookie_of(TokenAuth(TOKEN, secure=True))
    monkeypatch.setattr(auth_module.time, "time", lambda: now_s)
    assert check(auth, cookie=cookie) is AuthResult.VALID


@given(st.text(max_size=100))
def test_no_other_cookie_is_valid(text):
    """Any other value is rejected without raising."""
    assert check(TokenAuth(TOKEN, secure=True), cookie=text) is AuthResult.MISSING


def test_a_cookie_cannot_be_extended(auth):
    """The expiry time is signed."""
    expires, _, signature = cookie_of(auth).partition(".")
    assert check(auth, cookie=f"{int(expires) + 1}.{signature}") is AuthResult.MISSING


def test_scripts_and_other_sites_do_not_get_the_cookie():
    """Its attributes forbid it; behind TLS the cookie is also bound to TLS and to this host."""
    value, *attributes = TokenAuth(TOKEN, secure=True).cookie(PORT).split("; ")
    assert value.startswith("__Host-packet-voice-8788=")
    assert {"HttpOnly", "SameSite=Strict", "Secure", "Path=/"} <= set(attributes)
    value, *attributes = TokenAuth(TOKEN, secure=False).cookie(PORT).split("; ")
    assert value.startswith("packet-voice-8788=")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert "Secure" not in attributes
    assert not any(TOKEN in part for part in (value, *attributes))
