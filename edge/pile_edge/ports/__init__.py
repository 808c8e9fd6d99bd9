"""What the two interpreters provide differently.

A port is a module with these names; `agent.py` takes one:

wall_ms()                          unix milliseconds by the system's clock, however wrong
ticks_ms(), ticks_diff(new, old)   milliseconds of a clock that is never set; may wrap, so only differences count
time_status()                      how far wall_ms is to be trusted: a TIME_* of pile_shared.reading
log(text)                          one line for people
collect()                          a good moment to collect garbage
firmware_hash()                    32 bytes that name the code which runs
alive()                            called at every turn of the loop: for a watchdog
reported()                         called at every receipt: what runs here has proved itself
take_offer(version, message)       keep a signed offer of new software, and stop, so that it can be put in place
keep(validators)                   called at idle turns: a piece of what makes verifying their signatures quicker
open_bus(section)                  a bus (pile_edge.modbus)
open_storage(folder)               a storage (pile_edge.journal)
open_signer(uri)                   a signer (pile_edge.signers)
open_link(section, client_id=, subscriptions=, will=)    a link (pile_edge.mqtt)
"""
