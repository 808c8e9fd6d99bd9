"""What pages look like: quiet, dense, legible; light or dark as the system is. One stylesheet and one table of colours.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with any colour vision tell apart; where a
colour says something, a letter or word says it as well.
"""

BLUE, ORANGE, SKY, GREEN = "#0072B2", "#E69F00", "#56B4E9", "#009E73"
VERMILLION, PURPLE, YELLOW, GREY = "#D55E00", "#CC79A7", "#F0E442", "#8b949e"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
"""For lines of a chart, in this order."""

INK = "#7b8590"  # text and axes of charts, which are drawn on light and dark alike
_GRID = "rgba(128,128,128,.22)"

FAVICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><rect width='16' height='16' rx='3' fill='#0072B2'/>"
    "<path d='M9.5 2 4 9h3.2L6.5 14 12 7H8.8z' fill='#fff'/></svg>"
)

STYLE = """
:root{color-scheme:light dark;--pc-ink:#1b2229;--pc-soft:#59636e;--pc-line:#d8dee4;--pc-back:#f6f8fa;--pc-card:#fff;
--pc-link:#005a8e;--pc-bad:#b04a00;--pc-bad-back:#fff1e5;--pc-good:#00704f}
body.body--dark{--pc-ink:#e3e8ed;--pc-soft:#9aa5b1;--pc-line:#343c45;--pc-back:#12161a;--pc-card:#1b2127;--pc-link:#6cbcf0;
--pc-bad:#ff9d57;--pc-bad-back:#3a2310;--pc-good:#4bd0a5}
body{background:var(--pc-back);color:var(--pc-ink);font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
.nicegui-content{padding:12px 16px 24px;gap:12px;max-width:1600px;margin:0 auto;width:100%;align-items:stretch}
.pc-head{background:var(--pc-card)!important;color:var(--pc-ink)!important;border-bottom:1px solid var(--pc-line);
padding:0 16px;min-height:44px;display:flex;flex-wrap:nowrap;align-items:center;gap:12px;box-shadow:none}
.pc-brand{font-weight:650;letter-spacing:.01em;color:inherit;text-decoration:none;white-space:nowrap}
.pc-nav{display:flex;gap:2px;flex:1 1 auto;min-width:0;overflow:hidden}
.pc-nav a,.pc-drawer a{color:var(--pc-soft);text-decoration:none;padding:11px 9px 9px;border-bottom:2px solid transparent;
white-space:nowrap}
.pc-nav a:hover{color:var(--pc-ink)}
.pc-nav a[aria-current],.pc-drawer a[aria-current]{color:var(--pc-ink);border-bottom-color:#0072B2;font-weight:600}
.pc-drawer{background:var(--pc-card)!important;color:var(--pc-ink)}
.pc-drawer a{display:block;padding:12px 16px;border-bottom:0;border-left:3px solid transparent}
.pc-drawer a[aria-current]{border-left-color:#0072B2}
.pc-side{margin-left:auto;display:flex;gap:12px;align-items:center;white-space:nowrap;color:var(--pc-soft)}
.pc-side a,.pc-side button{color:inherit}
.pc-menu{display:none}
.pc-link,a.pc-link{color:var(--pc-link);text-decoration:none}.pc-link:hover{text-decoration:underline}
.pc-soft{color:var(--pc-soft)}.pc-mono{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;font-size:12.5px}
.pc-num{font-variant-numeric:tabular-nums}
h1.pc-title{font-size:18px;line-height:1.3;font-weight:650;margin:2px 0 0;overflow-wrap:anywhere}
h2.pc-sub{font-size:14px;line-height:1.3;font-weight:650;margin:0 0 6px}
.pc-card{background:var(--pc-card);border:1px solid var(--pc-line);border-radius:6px;padding:12px 14px;
min-width:0;overflow:hidden}
.pc-cards{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.pc-two{display:grid;gap:12px;grid-template-columns:minmax(0,2fr) minmax(0,1fr)}
.pc-figure b{display:block;font-size:20px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.pc-figure span{color:var(--pc-soft);font-size:12.5px}
.pc-banner{border:1px solid var(--pc-bad);background:var(--pc-bad-back);color:var(--pc-bad);border-radius:6px;padding:8px 12px;
font-weight:600}
.pc-note{color:var(--pc-soft);font-size:12.5px;overflow-wrap:anywhere}
.pc-bar{display:flex;gap:8px;flex-wrap:wrap;align-items:center}
.pc-rows{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 16px;margin:0}
.pc-rows dt{color:var(--pc-soft)}.pc-rows dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.pc-scroll{overflow-x:auto;max-width:100%}
table.pc-table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.pc-table th{color:var(--pc-soft);font-weight:500;text-align:left;white-space:nowrap}
.pc-table th,.pc-table td{padding:4px 12px 4px 0;border-bottom:1px solid var(--pc-line);vertical-align:top}
.pc-table .r{text-align:right}.pc-table tr:last-child td{border-bottom:0}.pc-table td{white-space:nowrap}
.pc-table td.w{white-space:normal;overflow-wrap:anywhere}
.pc-live{background:transparent;color:inherit}.pc-live th{color:var(--pc-soft);font-weight:500}
.pc-live.q-table--dense .q-table th,.pc-live.q-table--dense .q-table td{padding:2px 12px 2px 0;font-size:14px;
font-variant-numeric:tabular-nums;border-color:var(--pc-line);height:28px}
.pc-grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(92px,1fr));gap:3px}
.pc-grid a{display:flex;gap:5px;align-items:baseline;padding:3px 6px;border-radius:3px;text-decoration:none;min-width:0;
color:inherit;font-size:12.5px;line-height:1.5;border:1px solid var(--pc-line);border-left-width:4px;background:var(--pc-card);
content-visibility:auto;contain-intrinsic-size:auto 26px}
.pc-grid a span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.pc-grid a i,.pc-keys i{font-style:normal;width:1em;flex:none;text-align:center}
.pc-keys{display:flex;flex-wrap:wrap;gap:6px;margin-bottom:10px}
.pc-keys button{font:inherit;font-size:12.5px;color:inherit;background:var(--pc-card);border:1px solid var(--pc-line);
cursor:pointer;
border-left-width:4px;border-radius:3px;padding:2px 8px;display:flex;gap:5px;min-height:30px;align-items:center}
.pc-keys button[aria-pressed=true]{outline:2px solid #0072B2;outline-offset:1px}
.pc-s-idle{border-left-color:#8b949e!important}.pc-s-listed{border-left-color:#56B4E9!important}
.pc-s-reserved{border-left-color:#E69F00!important}.pc-s-charging{border-left-color:#009E73!important}
.pc-grid .pc-s-charging{background:rgba(0,158,115,.16)}.pc-grid .pc-s-reserved{background:rgba(230,159,0,.16)}
.pc-s-disputed{border-left-color:#D55E00!important}.pc-grid .pc-s-disputed{background:rgba(213,94,0,.2)}
.pc-s-silent{border-left-color:#CC79A7!important}.pc-grid .pc-s-silent{background:rgba(204,121,167,.2)}
.pc-s-alarm{border-left-color:#D55E00!important}.pc-grid .pc-s-alarm{background:#D55E00;color:#fff}
.pc-s-retired,.pc-s-hidden{border-left-color:transparent!important;opacity:.6}
.pc-filter{min-width:150px;flex:0 1 200px}
.pc-chip{display:inline-block;border-radius:3px;padding:0 6px;font-size:12.5px;border:1px solid var(--pc-line)}
.q-field--dense .q-field__control{min-height:36px}
@media(max-width:1023px){.pc-nav{display:none}.pc-menu{display:inline-flex}.pc-wide{display:none!important}}
@media(max-width:700px){.nicegui-content{padding:10px 10px 24px}.pc-two{grid-template-columns:minmax(0,1fr)}
.pc-head{padding:0 6px;gap:4px}.pc-cards{grid-template-columns:repeat(2,minmax(0,1fr))}.pc-side{gap:6px}}
"""
"""Of every page. Classes begin with pc-; shell.py's functions put them on, so that pages rarely name one."""


def chart(**options: object) -> dict[str, object]:
    """Options of a chart that all charts have, overlaid with `options` (ECharts' own names)."""
    return {
        "color": list(SERIES),
        "animation": False,
        "textStyle": {"color": INK, "fontFamily": "inherit"},
        "legend": {"top": 0, "left": 0, "textStyle": {"color": INK}, "itemHeight": 10},
        "grid": {"left": 8, "right": 8, "top": 34, "bottom": 4, "containLabel": True},
        "tooltip": {"trigger": "axis", "confine": True},
        "aria": {"enabled": True},
    } | options


def axis(kind: str, name: str = "", **options: object) -> dict[str, object]:
    """An axis of a chart."""
    lines = {"lineStyle": {"color": _GRID}}
    return {
        "type": kind,
        "name": name,
        "nameTextStyle": {"color": INK, "align": "left" if kind != "category" else "center"},
        "axisLabel": {"color": INK, "hideOverlap": True},
        "axisLine": lines,
        "splitLine": lines if kind == "value" else {"show": False},
    } | options
