"""What a new chain starts from unless its founders say otherwise: parameters, tariff, notes, parties."""

from collections.abc import Mapping

HOUR_MS = 3_600_000

PARAMS: dict[str, object] = {
    "currency": "CNY",
    "treasury": "grid",
    "grid": "grid",
    "crr_numerator": 4,
    "crr_denominator": 5,
    "capacity_hours": 2,
    "tolerance_permille": 20,
    "tolerance_min_wh": 100,
    "overuse_permille": 100,
    "fee_micro": 50_000,
    "bond_permille": 200,
    "penalty_permille": 500,
    "no_show_permille": 300,
    "begin_grace_ms": 6 * HOUR_MS,
    "evidence_window_ms": 6 * HOUR_MS,
    "confirm_window_ms": 6 * HOUR_MS,
    "epoch_ms": 24 * HOUR_MS,
    "band_permille": 2000,
    "breaker_permille": 100,
    "breaker_pause_ms": HOUR_MS // 2,
    "sign_window_ms": HOUR_MS,
    "cancel_cutoff_ms": HOUR_MS,
    "dispute_window_ms": 48 * HOUR_MS,
    "objection_bond_micro": 5_000_000,
    "rulings_needed": 1,
}
TARIFF: dict[str, object] = {
    "utc_offset_minutes": 480,
    "periods": [
        {"from_minute": 0, "name": "flat", "sell_micro_per_kwh": 650_000, "buy_micro_per_kwh": 400_000},
    ],
}
STAKE_RULES: dict[str, object] = {
    "max_validators": 21,
    "min_self_bond_micro": 1_000_000_000,
    "reward_permille": 500,
    "evidence_age_blocks": 100_000,
    "evidence_age_ms": 48 * HOUR_MS,
    "double_sign_ppm": 50_000,
    "downtime_ppm": 100,
    "downtime_window_blocks": 10_000,
    "jail_ms": HOUR_MS // 6,
}
# Notes of 0.10 to 51.20: what an order costs is a few of them. Spent the moment its bin is full, a note would likely be that of
# who just filled the bin; an hour later it may be anybody's.
NOTES: Mapping[str, int] = {"unit_micro": 100_000, "denominations": 10, "bin_age_ms": HOUR_MS}
FOUNDERS = {"auditor": "third-party", "grid": "grid", "operator": "operator"}


def founding_document(
    name: str, time_ms: int, parties: dict[str, tuple[str, str]], notes: Mapping[str, int] | None = NOTES
) -> dict[str, object]:
    """A genesis in its JSON form, without validators.

    Args:
        name: of the chain.
        time_ms: when it begins, unix milliseconds.
        parties: role and public key in hex, by party.
        notes: their rules; None for a chain on which nobody pays anonymously.
    """
    issued = {} if notes is None else {"notes": dict(notes)}
    return {
        **issued,
        "name": name,
        "time_ms": time_ms,
        "params": dict(PARAMS),
        "tariff": TARIFF,
        "parties": [{"id": party, "role": role, "public": public} for party, (role, public) in parties.items()],
        "validators": [],
    }
