"""Pages without NiceGUI or any script: to sign in, and to say why something is not shown."""

import html

from starlette.responses import HTMLResponse, Response

from pile_coordinator.dashboard import words
from pile_coordinator.web.problems import Refused

CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans CJK SC","PingFang SC",
"Microsoft YaHei",sans-serif;margin:0;display:grid;place-items:center;min-height:100vh;background:Canvas;color:CanvasText}
main{width:min(26rem,calc(100vw - 3rem))}h1{font-size:1.3rem;margin:0 0 .5rem}label{display:block;margin:1rem 0 .3rem}
input,button{font:inherit;width:100%;box-sizing:border-box;padding:.6rem .7rem;border-radius:5px;border:1px solid #8b949e}
button{margin-top:.8rem;background:#0072B2;border-color:#0072B2;color:#fff;font-weight:600;cursor:pointer}
.bad{color:#b04a00;font-weight:600}.soft{opacity:.75;font-size:.9rem}nav{margin-top:2rem;font-size:.9rem}a{color:LinkText}
@media(prefers-color-scheme:dark){.bad{color:#ff9d57}}
"""


def sign_in(language: str, to: str, *, told: str = "", status: int = 200, retry_s: int = 0) -> Response:
    """The form that takes a token; `told` is the key of what to say above it, `to` where to go then."""

    def say(key: str, **values: object) -> str:
        return html.escape(words.text(language, key, **values))

    notice = f'<p class="bad" role="alert">{say(told, seconds=retry_s)}</p>' if told else ""
    body = (
        f"<h1>{say('shell.name')}</h1><p>{say('sign.about')}</p>{notice}"
        f'<form method="post" action="/sign-in"><input type="hidden" name="to" value="{html.escape(to)}">'
        f'<label for="token">{say("sign.token")}</label>'
        '<input id="token" name="token" type="password" required maxlength="100" autofocus autocomplete="current-password"'
        ' spellcheck="false" placeholder="pct_…">'
        f"<button>{say('sign.in')}</button></form>"
        f'<p class="soft">{say("sign.how")} <code>pilechain web token add</code></p>{_languages(language, "/sign-in")}'
    )
    return _page(language, body, status)


def told(language: str, refusal: Refused) -> Response:
    """That something is not shown, and why."""
    key = f"refused.{refusal.status}"
    known = key if key in words.table(language) else "refused.other"
    seconds = refusal.headers.get("Retry-After", "")
    body = (
        f"<h1>{html.escape(words.text(language, 'shell.name'))}</h1>"
        f'<p class="bad">{html.escape(words.text(language, known, seconds=seconds))}</p>'
        f'<p><a href="/">{html.escape(words.text(language, "refused.home"))}</a></p>'
    )
    return _page(language, body, refusal.status, refusal.headers)


def _languages(language: str, to: str) -> str:
    links = [
        f'<a lang="{code}" href="/language/{code}?to={to}">{name}</a>'
        for code, name in words.LANGUAGES.items()
        if code != language
    ]
    return f"<nav>{' '.join(links)}</nav>"


def _page(language: str, body: str, status: int, headers: dict[str, str] | None = None) -> Response:
    title = html.escape(words.text(language, "shell.name"))
    page = (
        f'<!doctype html><html lang="{words.TAGS[language]}"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    )
    own = {"content-security-policy": CSP, "vary": "Cookie, Accept-Language", "referrer-policy": "same-origin"}
    return HTMLResponse(page, status, (headers or {}) | own)  # "no-referrer" would make a form's Origin null
