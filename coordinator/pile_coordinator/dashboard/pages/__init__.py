"""The pages. Each module registers its own with `shell.page`; only what is named here is served."""

MODULES = (
    "overview",
    "piles",
    "book",
    "orders",
    "life",
    "disputes",
    "statistics",
    "anonymity",
    "network",
    "alarms",
    "traces",
)
