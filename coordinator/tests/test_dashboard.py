"""The dashboard in a real headless Chromium, against a real server over a real ledger."""

import re
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from web_world import NASTY, WebWorld

from pile_hil.browser import MISSING, browser, has_browser
from pile_hil.requirements import require

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
TITLES = {
    "en-US": {"/": "Overview", "/piles": "Piles", "/piles/pile-1": "Pile pile-1", "/book": "Order book"},
    "zh-CN": {"/": "总览", "/piles": "充电桩", "/piles/pile-1": "充电桩 pile-1", "/book": "订单簿"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    require(has_browser(), MISSING)
    world = WebWorld(tmp_path_factory.mktemp("dashboard"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def chromium():
    require(has_browser(), MISSING)
    with browser() as found:
        yield found


@pytest.fixture
def make_world(tmp_path):
    """Worlds of a test's own, which end after its browser."""
    require(has_browser(), MISSING)
    made = []

    def make(**settings):
        made.append(WebWorld(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def visitor(world, chromium, make_world):
    """Opens a browser context of its own, signed in; afterwards no page may have complained or asked elsewhere."""
    opened = []

    def visit(party="operator", *, size="desk", locale="en-US", world=world, token=None, expect=()):
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, locale=locale)
        page = Visitor(context.new_page(), world, expect)
        opened.append(page)
        page.sign_in(world.tokens[party] if token is None else token)
        return page

    yield visit
    for page in opened:
        page.page.context.close()
        assert page.complaints() == []


class Visitor:
    """A page of a browser, with everything it said and asked for."""

    def __init__(self, page, world, expect):
        self.page, self.world, self._expect = page, world, expect
        self.said, self.asked = [], []
        page.on(
            "console", lambda message: self.said.append(message.text) if message.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url.replace("ws:", "http:")))
        page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def complaints(self):
        elsewhere = [url for url in self.asked if not url.startswith((self.world.url + "/", "data:", "blob:"))]
        return elsewhere + [text for text in self.said if not any(word in text for word in self._expect)]

    def sign_in(self, token):
        self.page.goto(self.world.url + "/")
        assert self.page.url.startswith(f"{self.world.url}/sign-in?to=")
        self.page.fill("#token", token)
        self.page.click("button")

    def open(self, path):
        self.page.goto(self.world.url + path)
        self.page.wait_for_function("window.did_handshake === true")
        return self.page


# --- signing in ----------------------------------------------------------------------------------------------------------


def test_a_token_is_pasted_once_and_kept_where_no_script_reads_it(world, visitor):
    page = visitor().page
    page.wait_for_selector("h1:has-text('Overview')")
    cookie = next(c for c in page.context.cookies() if c["name"] == "pilechain_token")
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert world.tokens["operator"] not in page.content()
    page.click("text=Sign out")
    page.wait_for_url("**/sign-in")
    assert not [c for c in page.context.cookies() if c["name"] == "pilechain_token"]


def test_signing_out_in_one_tab_ends_the_others(world, visitor):
    visit = visitor()
    other = visit.page.context.new_page()
    other.goto(world.url + "/piles")
    other.wait_for_function("window.did_handshake === true")
    visit.page.click("text=Sign out")
    other.wait_for_url("**/sign-in?to=/piles")


@pytest.mark.parametrize("token", ["nonsense", "pct_0123456789ab_" + "x" * 43, NASTY])
def test_a_wrong_token_is_told_so_and_keeps_nothing(visitor, token):
    page = visitor(token=token, expect=["401"]).page
    assert "not good" in page.inner_text("[role=alert]")
    assert not page.context.cookies()


def test_wrong_tokens_are_counted_against_their_address(make_world):
    world = make_world(per_minute=60, burst=60)
    answers = [_post(world, token=f"pct_{n:012x}_{'x' * 43}").status_code for n in range(12)]
    assert answers[:3] == [401, 401, 401]
    assert answers[-1] == 429


def _post(world, *, token, origin=None, path="/sign-in", to="/"):
    headers = {"origin": world.url if origin is None else origin}
    return httpx.post(world.url + path, data={"token": token, "to": to}, headers=headers)


def test_forms_of_other_servers_are_refused(world):
    for origin in ("http://evil.example", "null", ""):
        answer = _post(world, token=world.tokens["operator"], origin=origin)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert _post(world, token="", origin=origin, path="/sign-out").status_code == 403


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example/", "/v1/orders", "/nowhere", '"><script>alert(1)</script>']
)
def test_nobody_is_sent_elsewhere_after_signing_in(world, to):
    answer = _post(world, token=world.tokens["operator"], to=to)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    page = httpx.get(f"{world.url}/sign-in", params={"to": to})
    assert "<script" not in page.text
    assert "evil" not in page.text
    assert httpx.get(f"{world.url}/language/zh", params={"to": to}).headers["location"] == "/"


def test_the_cookie_is_for_https_alone_where_the_proxy_speaks_it(make_world):
    world = make_world(top='proxy = "127.0.0.1"\n')
    answer = httpx.post(
        f"{world.url}/sign-in",
        data={"token": world.tokens["operator"]},
        headers={"origin": world.url.replace("http:", "https:"), "x-forwarded-proto": "https"},
    )
    assert "; Secure" in answer.headers["set-cookie"]
    assert "; Secure" not in _post(world, token=world.tokens["operator"]).headers["set-cookie"]


def _another_token(world, **more):
    return world.store.add("operator", "operator", now_ms=time.time_ns() // 1_000_000, days=1, **more)


def _revoke(world, token):
    world.store.revoke(token.split("_")[1], time.time_ns() // 1_000_000)


def test_a_token_that_is_revoked_ends_its_open_pages(world, visitor):
    token = _another_token(world)
    page = visitor(token=token, expect=["403", "WebSocket"]).open("/piles")
    _revoke(world, token)
    page.wait_for_url("**/sign-in?ended=1", timeout=10_000)
    assert "revoked" in page.inner_text("[role=alert]")


def test_a_socket_ends_with_its_token_even_if_its_page_would_rather_stay(world):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    token = _another_token(world)
    cookies = {"pilechain_token": token}
    page = httpx.get(world.url + "/", cookies=cookies).text
    with connect(
        _socket_of(world, page), origin=world.url, additional_headers={"cookie": f"pilechain_token={token}"}
    ) as socket:
        assert socket.recv(10).startswith("0{")
        _revoke(world, token)
        with pytest.raises(ConnectionClosed):
            _read_on(socket)


def _read_on(socket):
    while True:
        socket.recv(10)


def _socket_of(world, page):
    client = re.search(r"client_id\W+([0-9a-f-]{36})", page)[1]
    return f"{world.url.replace('http', 'ws')}/_nicegui_ws/socket.io/?EIO=4&transport=websocket&client_id={client}"


def test_a_link_on_another_site_finds_who_is_signed_in(world, visitor):
    asked = visitor().open("/").context.new_page()
    asked.route("http://elsewhere.example/", lambda route: route.fulfill(
        content_type="text/html", body=f'<a href="{world.url}/book">book</a>'))  # fmt: skip
    asked.goto("http://elsewhere.example/")
    asked.click("a")
    asked.wait_for_selector("h1:has-text('Order book')")


# --- pages ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", TITLES)
@pytest.mark.parametrize("size", SIZES)
def test_every_page_in_both_languages_on_desk_and_phone(visitor, size, locale):
    visit = visitor(size=size, locale=locale)
    for path, title in TITLES[locale].items():
        page = visit.open(path)
        assert page.inner_text("h1") == title
        assert page.title() == f"{title.split(' pile-1')[0]} · Pilechain"
        assert page.get_attribute("html", "lang") == locale
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner, f"{path} scrolls sideways"
        if locale == "zh-CN":
            assert "区块 10" in page.inner_text("[data-test=freshness]")


def test_the_language_is_chosen_on_any_page_and_kept(visitor):
    page = visitor().open("/book")
    page.click(".pc-wide a[lang=zh]")
    page.wait_for_selector("h1:has-text('订单簿')")
    assert page.url.endswith("/book")
    page.reload()
    assert page.inner_text("h1") == "订单簿"
    page.click(".pc-wide a[lang=en]")
    page.wait_for_selector("h1:has-text('Order book')")


def test_a_phone_has_the_navigation_in_a_drawer(visitor):
    page = visitor(size="phone").open("/")
    page.click(".pc-menu")
    page.click(".pc-drawer a:has-text('Piles')")
    page.wait_for_selector("h1:has-text('Piles')")


def test_pages_follow_the_chain(make_world, visitor):
    world = make_world()
    visit = visitor(world=world)
    page = visit.open("/piles")
    page.wait_for_selector("[data-height='10']")
    height = world.block()
    page.wait_for_function(f"document.querySelector('[data-test=freshness]').innerText.startsWith('block {height} ')")
    page.wait_for_selector(f"[data-height='{height}']")
    page = visit.open("/")
    height = world.block()
    page.wait_for_selector(f".pc-live td:text-is('{height}')")


def test_a_chain_that_stands_still_has_a_banner(visitor):
    assert "stands still" in visitor().open("/").inner_text("[data-test=banner]")


def test_piles_are_filtered_and_lead_to_their_page(visitor):
    page = visitor().open("/piles")
    assert page.locator(".pc-grid a").all_inner_texts() == ["!\npile-1", "·\npile-2"]
    page.click(".pc-keys button:has-text('disputed')")
    page.wait_for_function("document.querySelectorAll('.pc-grid a').length === 1")
    page.click(".pc-keys button:has-text('disputed')")
    page.fill("input[aria-label='Find by id']", "pile-2")
    page.wait_for_function("document.querySelector('.pc-grid').innerText.includes('pile-2') && "
                           "document.querySelectorAll('.pc-grid a').length === 1")  # fmt: skip
    page.click(".pc-grid a")
    page.wait_for_selector("h1:has-text('Pile pile-2')")


def test_a_pile_shows_its_sessions_proofs_and_register(visitor):
    text = visitor().open("/piles/pile-1").inner_text(".nicegui-content")
    assert "104.000 kWh" in text
    assert "confirmed" in text
    assert "vehicle full" in text
    assert "cannot tell" in text  # of refused proofs


def test_the_book_says_what_is_at_market(visitor):
    text = visitor().open("/book").inner_text(".nicegui-content")
    assert "30.0 kWh of listings" in text
    assert text.count("pile-1") == 2


# --- who sees what -------------------------------------------------------------------------------------------------------


def _texts(page, selector):
    return page.locator(selector).all_inner_texts()


_RECORDS = ["Orders", "Settlements", "Statistics", "Anonymity", "Network"]


def test_the_navigation_has_what_the_role_may_see(visitor):
    assert _texts(visitor("grid").open("/"), ".pc-nav a") == ["Overview", "Piles", *_RECORDS]
    assert _texts(visitor("dan").open("/"), ".pc-nav a") == ["Overview", "Piles", "Order book", *_RECORDS]
    page = visitor("grid", expect=["403"]).page
    page.goto(page.url + "book")
    assert "no part" in page.inner_text("main")


def test_a_party_sees_its_own(visitor):
    assert _texts(visitor("other-owner").open("/piles"), ".pc-grid a") == ["·\npile-2"]
    assert _texts(visitor("other-user").open("/piles"), ".pc-grid a") == []
    page = visitor("other-user", expect=["404"]).open("/piles/pile-1")
    assert "not yours to see" in page.inner_text("[role=alert]:visible >> nth=1")
    page = visitor("dan").open("/piles/pile-1")
    assert "shown to its owner and to operators" in page.inner_text(".nicegui-content")
    page = visitor("dan").open("/book")
    assert "pile-1" not in page.inner_text(".nicegui-content")


def test_the_grid_does_not_learn_from_colours_what_it_may_not_read(visitor):
    page = visitor("grid").open("/piles")
    assert set(_texts(page, ".pc-keys button:visible")) <= {"not shown 2", "not shown 1", "! disputed 1"}


# --- what is not ours ----------------------------------------------------------------------------------------------------


def test_markup_in_what_the_database_says_is_shown_as_text(make_world, visitor):
    world = make_world()
    image = "<img src=x onerror=alert(1)>{{7*7}}"
    with sqlite3.connect(world.folder / "evidence.sqlite") as db:
        db.execute("UPDATE proof SET reason = ? WHERE sequence = 3", (NASTY,))
        db.execute("UPDATE proof SET event = ? WHERE sequence = 2", (image,))
        db.execute("UPDATE contract SET outcome = ? WHERE outcome IS NOT NULL", (image,))
        db.execute("UPDATE orders SET party = ? WHERE outcome = 'open'", (image,))
        db.execute(
            "UPDATE pile SET zone = ? WHERE id = 'pile-1'", ("`${alert(1)}` </script><script>alert(1)</script>",)
        )
    world.begin_again()
    visit = visitor(world=world)
    text = visit.open("/piles/pile-1").inner_text(".nicegui-content")
    assert NASTY in text
    assert text.count(image) == 2
    assert "`${alert(1)}` </script><script>alert(1)</script>" in text
    assert image in visit.open("/book").inner_text(".nicegui-content")


def test_sockets_are_for_pages_of_this_server_and_of_the_same_token(world):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    page = httpx.get(world.url + "/", cookies={"pilechain_token": world.tokens["operator"]})
    place = _socket_of(world, page.text)
    own, other = (f"pilechain_token={world.tokens[party]}" for party in ("operator", "dan"))
    with connect(place, origin=world.url, additional_headers={"cookie": own}) as socket:
        assert socket.recv(10).startswith("0{")
    wrong = [(None, world.url), (own, "http://evil.example"), (own, None), (other, world.url)]
    for cookie, origin in wrong:
        with pytest.raises(InvalidStatus):
            connect(place, origin=origin, additional_headers={"cookie": cookie} if cookie else {})
    assert httpx.get(f"{world.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling").status_code == 404


def test_sockets_count_among_the_live_streams_of_their_token(make_world, visitor):
    world = make_world(streams_each=2)
    visit = visitor(world=world, expect=["429"])
    visit.open("/")
    second = visit.page.context.new_page()
    second.goto(world.url + "/")
    second.wait_for_function("window.did_handshake === true")
    third = visit.page.context.new_page()
    assert third.goto(world.url + "/").status == 429
    assert "close a page" in third.inner_text("main")


def test_pages_and_the_api_have_policies_of_their_own(world):
    cookies = {"pilechain_token": world.tokens["operator"]}
    page = httpx.get(world.url + "/", cookies=cookies, headers={"x-forwarded-prefix": "/evil"})
    nonce = re.search(r"'nonce-([\w-]+)'", page.headers["content-security-policy"])[1]
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') > 3
    assert "/evil" not in page.text
    assert (page.headers["cache-control"], page.headers["x-frame-options"]) == ("no-store", "DENY")
    assert "set-cookie" not in page.headers
    strict = "default-src 'none'; frame-ancestors 'none'"
    for path in ("/healthz", "/v1/blocks", "/nowhere", "/openapi.json"):
        assert world.get(path).headers["content-security-policy"] == strict
    assert world.get("/v1/nowhere").json()["code"] == "not_found"
    assert httpx.post(world.url + "/", cookies=cookies).status_code == 405
    assert httpx.get(world.url + "/v1/blocks", cookies=cookies).status_code == 401  # the cookie is for pages
    assert not any(
        "piles/{pile}" in path and not path.startswith("/v1") for path in world.get("/openapi.json").json()["paths"]
    )


def test_nothing_is_written_where_the_server_was_started(world):
    assert not (Path.cwd() / ".nicegui").exists()
