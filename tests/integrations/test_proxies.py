"""Addresses behind proxies: the cases in addresses.toml, and what holds for any input."""

import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.integrations import proxies as proxies_module
from ledger_client.integrations.proxies import (
    HEADER_CHARS_MAX,
    HOPS_MAX,
    NOWHERE,
    Client,
    Endpoint,
    Proxies,
    environ_header,
    parse_peer,
)

TABLE = tomllib.loads((Path(__file__).parent / "addresses.toml").read_text(encoding="utf-8"))
CASES = [{**TABLE["defaults"], **case} for case in TABLE["case"]]
PROXY = Endpoint("10.0.0.1", 40000)
STRANGER = Endpoint("203.0.113.9")
junk = st.text(st.characters(codec="latin-1"), max_size=60) | st.text(
    st.sampled_from('for=",;[]:\\. 0123456789_%unkow'), max_size=60
)


@pytest.mark.parametrize("case", CASES, ids=[case["says"] for case in CASES])
def test_the_client_is(case: dict[str, Any]) -> None:
    proxies = Proxies(case["proxies"], header=case["header"])
    peer = parse_peer(case["peer"], case["port"]) or NOWHERE
    endpoint = Endpoint(case.get("ip"), case.get("ip_port"))
    assert proxies.client(peer, case["values"]) == Client(endpoint, case.get("hidden_by"))


@given(junk, st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_what_a_stranger_sends_never_hides_what_the_proxy_adds(sent: str, header: str) -> None:
    proxies = Proxies(["10.0.0.0/8"], header=header)
    for added in ("203.0.113.9", '"203.0.113.9"'):
        value = f"for={added}" if header == "forwarded" else added
        assert proxies.client(PROXY, [sent, value]) == Client(STRANGER)
        assert proxies.client(PROXY, [f"{sent}, {value}"]) == Client(STRANGER)


@given(junk, st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_junk_gives_an_address_or_none_and_never_an_error(sent: str, header: str) -> None:
    client = Proxies(["10.0.0.0/8"], header=header).client(PROXY, [sent])
    assert (client.endpoint == NOWHERE) == (client.hidden_by is not None)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_a_header_of_any_length_is_read_as_far_as_its_limits(header: str) -> None:
    start = "for=" if header == "forwarded" else ""
    proxies = Proxies(["10.0.0.0/8"], header=header)
    hops = [f"{start}203.0.113.9", *[f"{start}10.0.0.2"] * (HOPS_MAX - 1)]
    assert proxies.client(PROXY, hops) == Client(STRANGER)
    assert proxies.client(PROXY, [hops[0], *hops]) == Client(STRANGER)
    long = f"{start}198.51.100.1," * 100_000
    assert proxies.client(PROXY, [long, hops[0]]) == Client(STRANGER)
    blanks = " " * (HEADER_CHARS_MAX - len("3.0.113.9"))
    assert proxies.client(PROXY, [f"{start}203.0.113.9{blanks}"]).hidden_by == "10.0.0.1"


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy.example.com", ""])
def test_what_is_no_network_of_proxies_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"proxy|host bits|does not appear"):
        Proxies([network])


def test_a_text_in_the_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="a list of networks"):
        Proxies("10.0.0.0/8")


@pytest.mark.parametrize(
    ("is_read", "environ"),
    [
        (True, {"SERVER_SOFTWARE": "gunicorn/22.0.0"}),
        (False, {"SERVER_SOFTWARE": "gunicorn/21.2.0"}),
        (False, {"SERVER_SOFTWARE": "gunicorn/new"}),
        (False, {"SERVER_SOFTWARE": "Granian"}),
        (False, {"SERVER_SOFTWARE": "Cheroot/11.1.2 Server"}),
        (False, {}),
        (True, {"SERVER_SOFTWARE": "mine", "waitress.client_disconnected": bool}),
        (True, {"SERVER_SOFTWARE": "nginx/1.22.1"}),
        (True, {"eventlet.posthooks": []}),
        (False, {"uwsgi.version": b"2.0"}),
        (False, {"uwsgi.version": b"2.0", "UWSGI_ROUTER": "http", "REQUEST_SCHEME": "http"}),
        (True, {"uwsgi.version": b"2.0", "REQUEST_SCHEME": "https"}),
    ],
)
def test_a_name_with_hyphens_is_read_where_the_server_tells_it_from_one_with_underscores(
    is_read: bool, environ: dict[str, Any]
) -> None:
    environ |= {"wsgi.input": io.BytesIO(), "HTTP_X_FORWARDED_FOR": "a", "HTTP_FORWARDED": "b"}
    assert environ_header(environ, "x-forwarded-for") == (["a"] if is_read else [])
    assert environ_header(environ, "x-forwarded-for", drops_underscores=True) == ["a"]
    assert environ_header(environ, "forwarded") == ["b"], "no name with underscores is like it"


def test_a_bridge_from_asgi_hands_on_the_names_as_they_were_sent() -> None:
    headers = [(b"x-forwarded-for", b"a"), (b"x_forwarded_for", b"b"), (b"X-Forwarded-For", b"c")]
    environ = {"asgi.scope": {"headers": headers}, "HTTP_X_FORWARDED_FOR": "a,b,c"}
    assert environ_header(environ, "x-forwarded-for") == ["a", "c"]


@pytest.mark.parametrize("begin", [";", "a=b;", 'a="', "a", ";" * 99])
def test_a_header_is_read_in_steps_as_many_as_its_characters(begin: str) -> None:
    # With blanks tried in every division, this would take hours.
    assert proxies_module._is_element(begin + " " * 1_000_000 + "\x01") is None
