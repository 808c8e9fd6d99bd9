"""The dashboard: pages for people in a browser, over the same evidence, tokens and access table as the HTTP API.

- `shell`: the `page` decorator and the `View` it hands every page. Begin there to add a page.
- `words`: all texts, in English and Chinese, from words/en/*.json and words/zh/*.json.
- `written`: money, energy, power, prices and times as people read them.
- `theme`: style and colours, for pages and charts.
- `door`: what every request for a page and every socket passes. `signing`: sign-in, sign-out, choice of language.
- `board`: what the live pages draw from, read once for each block whatever the number of pages.
- `pages`: the pages; a module is named in `pages.MODULES` to be served.
"""
