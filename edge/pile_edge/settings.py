"""The values a pile's agent runs by. Checked and filled by `config`, which a board can forget once it has started."""

from pile_edge.meters.decode import Profile
from pile_edge.session import Timing
from pile_shared.certificate import Validator


class Settings:
    """One pile's configuration, each value checked, paths resolved.

    Attributes:
        chain_id, pile_id: ids. signer: URI of the key. validators: the pinned set.
        update_public: who may offer new software (65 bytes; empty: nobody). mqtt: the link's section.
        bus: the bus's section, with `paces` of the meter and the contactor. control: the contactor's section.
        profile: of the meter. unit: its bus address. meter_serial: as registered. rated_power_w: the most that can flow.
        timing: intervals. rate, origin_ms: of a rig's clock; 1 and 0 elsewhere.
        journal_path, journal_capacity_bytes, journal_segment_bytes: the journal. ocmf_path: of the records; not on a board.
    """

    chain_id: str
    pile_id: str
    signer: str
    validators: list[Validator]
    update_public: bytes
    mqtt: dict[str, object]
    bus: dict[str, object]
    control: dict[str, object]
    profile: Profile
    unit: int
    meter_serial: str
    rated_power_w: int
    timing: Timing
    rate: int
    origin_ms: int
    journal_path: str
    journal_capacity_bytes: int
    journal_segment_bytes: int
    ocmf_path: str
