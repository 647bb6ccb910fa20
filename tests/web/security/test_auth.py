"""Who shows the token may speak, and a cookie is worth what its signature and its date say."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.security import auth as keys_module
from web.security.auth import COOKIE_S, Keys, Shown

TOKEN = "correct-horse-battery-staple"
PORT = 8788


def shown(keys, *authorizations, cookie=None):
    return keys.shown(authorizations=authorizations, cookie=cookie)


def cookie_of(keys):
    return keys.cookie(PORT).split("; ")[0].partition("=")[2]


@pytest.fixture
def keys():
    return Keys(TOKEN, secure=True)


def test_without_a_token_everybody_may_speak():
    """Whatever is shown to a server that wants nothing is right."""
    keys = Keys(None, secure=False)
    assert not keys.wanted
    assert shown(keys) is shown(keys, "Bearer anything") is shown(keys, cookie="x") is Shown.RIGHT


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_the_token_opens(keys, header):
    """A scheme's case and the spaces around it do not matter (RFC 9110 §11.1)."""
    assert shown(keys, header) is Shown.RIGHT


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
def test_anything_else_does_not(keys, headers):
    """A header that is not exactly one bearer of the token is wrong, even beside a cookie that is right."""
    assert shown(keys, *headers) is Shown.WRONG
    assert shown(keys, *headers, cookie=cookie_of(keys)) is Shown.WRONG


def test_nothing_shown_is_no_attempt(keys):
    """Who shows nothing, or a cookie from before the token was changed, does not count as a guess."""
    former = Keys("incorrect-horse-battery-staple", secure=True)
    assert shown(keys) is shown(keys, cookie=cookie_of(former)) is Shown.NOTHING


def test_every_server_with_the_token_takes_the_cookie_of_one(keys):
    """Behind a balancer, and after a restart, nobody has to show the token again."""
    assert shown(keys, cookie=cookie_of(Keys(TOKEN, secure=True))) is Shown.RIGHT


def test_a_cookie_does_not_tell_the_token_to_another_signature(keys):
    """What signs is derived from the token and is not the token."""
    expires, _, signature = cookie_of(keys).partition(".")
    assert hmac.new(TOKEN.encode(), expires.encode(), hashlib.sha256).hexdigest() != signature


def test_a_cookie_opens_until_it_expires(keys, monkeypatch):
    """The server's own clock decides, not the browser's."""
    cookie = cookie_of(keys)
    assert shown(keys, cookie=cookie) is Shown.RIGHT
    now_s = keys_module.time.time()
    monkeypatch.setattr(keys_module.time, "time", lambda: now_s + COOKIE_S + 1)
    assert shown(keys, cookie=cookie) is Shown.NOTHING


@given(st.text(max_size=100))
def test_no_other_cookie_opens(text):
    """Whatever a cookie holds, it is judged and never raises."""
    assert shown(Keys(TOKEN, secure=True), cookie=text) is Shown.NOTHING


def test_a_cookie_cannot_be_prolonged(keys):
    """The date is signed."""
    expires, _, signature = cookie_of(keys).partition(".")
    assert shown(keys, cookie=f"{int(expires) + 1}.{signature}") is Shown.NOTHING


def test_scripts_and_other_sites_do_not_get_the_cookie():
    """Its attributes say so; behind TLS it is also bound to TLS and to this very host."""
    value, *attributes = Keys(TOKEN, secure=True).cookie(PORT).split("; ")
    assert value.startswith("__Host-packet-voice-8788=")
    assert {"HttpOnly", "SameSite=Strict", "Secure", "Path=/"} <= set(attributes)
    value, *attributes = Keys(TOKEN, secure=False).cookie(PORT).split("; ")
    assert value.startswith("packet-voice-8788=")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert "Secure" not in attributes
    assert not any(TOKEN in part for part in (value, *attributes))
