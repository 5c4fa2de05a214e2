"""Keys as the verb asks for them and as they are shown."""

from __future__ import annotations

from typing import Any

import pytest
from nbgpu.errors import UsageProblem
from nbgpu.results.keys import KeyListing, NewKey, RevokedKey
from nbgpu_backend.schema.keys import Key, KeyList
from nbgpu_backend.schema.keys import NewKey as NewKeyAnswer

from tests.unit.test_results import EVIL, check
from tests.unit.test_verbs import call

SECRET = "nbgpu_" + "x" * 43


def key(**more: Any) -> Key:
    fields: dict[str, Any] = {
        "id": "key-1", "endpoint": "chat", "endpoint_id": "ep-1", "prefix": "nbgpu_xxxxxx",
        "label": EVIL, "per_minute": 60, "at_once": None, "created_us": 1_700_000_000_000_000,
        "used_us": None, "requests": 1200, "tokens_in": 5, "tokens_out": 7, "cost": "0.25",
    }  # fmt: skip
    return Key(**fields | more)


def test_each_is_escaped_and_stands_alone() -> None:
    made = NewKey(NewKeyAnswer(**key().model_dump(), secret=SECRET, base_url="http://x/v2/chat"))
    listing = KeyListing(KeyList(keys=[key(), key(id="key-2", per_minute=None, at_once=4)]), "chat")
    for found in (made, listing, RevokedKey(key()), KeyListing(KeyList(keys=[]), "chat")):
        check(found)
    assert SECRET in made.text() and SECRET in made.html() and made.secret == SECRET
    assert "shown this once" in made.text() and "http://x/v2/chat" in made.text()
    assert "60 a minute" in listing.text() and "4 at once" in listing.text()
    assert "never" in listing.text() and "1,200" in listing.text()
    assert list(listing) == ["key-1", "key-2"]
    assert "%gpu key add chat" in KeyListing(KeyList(keys=[]), "chat").text()


def test_the_frame_has_numbers_and_instants() -> None:
    frame = KeyListing(KeyList(keys=[key(used_us=1_700_000_001_000_000), key()])).df
    assert frame["cost"].sum() == 0.5 and frame["requests"].sum() == 2400
    assert str(frame["created"].dtype).endswith("UTC]") and frame["used"].isna().sum() == 1
    assert frame["per_minute"][0] == 60 and frame["at_once"].isna().all()
    assert KeyListing(KeyList(keys=[])).df.empty


def test_what_a_new_key_asks_for() -> None:
    made = call("key", "add", "chat", label="app", per_minute=60, at_once=4)
    assert (made.method, made.path, made.again) == ("POST", "/nbgpu/v1/keys", False)
    assert made.body == {"endpoint": "chat", "label": "app", "perMinute": 60, "atOnce": 4}
    assert call("key", "add", "chat").body == {"endpoint": "chat"}
    assert call("key").params == {} and call("key", "ls", "chat").params == {"endpoint": "chat"}
    assert call("key", "rm", "key/1").path == "/nbgpu/v1/keys/key%2F1"


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("add",), {}, "For which endpoint?"),
        (("rm",), {}, "Which key?"),
        (("ad", "chat"), {}, "Did you mean add?"),
        (("ls", "chat"), {"label": "x"}, "are for a new key"),
        (("rm", "key-1"), {"at_once": 1}, "are for a new key"),
        (("add", "chat"), {"per_minute": 0}, "--per-minute cannot be 0"),
        (("add", "chat"), {"at_once": -1}, "--at-once cannot be -1"),
    ],
)
def test_what_cannot_be_meant_is_said(
    arguments: tuple[str, ...], options: dict[str, int], said: str
) -> None:
    with pytest.raises(UsageProblem) as problem:
        call("key", *arguments, **options)
    assert said in str(problem.value)
