"""The tables of the evidence database. Each fact stands once; `movement` shows all money as one journal.

Heights, positions (of a transaction in its block) and leaves (under its result root) say where in the chain a row comes
from. Money is in micro, prices in micro per kWh, energy in Wh, times in unix ms.
"""

VERSION = 4

SCHEMA = """
CREATE TABLE mark (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), schema INTEGER NOT NULL, height INTEGER NOT NULL);
CREATE TABLE block (height INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, hash BLOB NOT NULL, proposer TEXT NOT NULL,
  txs INTEGER NOT NULL, results INTEGER NOT NULL);
-- What a refusal was called in words is not here: words are no part of the chain, and this is the same at every node.
CREATE TABLE tx (height INTEGER NOT NULL, position INTEGER NOT NULL, id BLOB NOT NULL, type TEXT NOT NULL,
  sender TEXT NOT NULL, code TEXT NOT NULL, PRIMARY KEY (height, position)) WITHOUT ROWID;
CREATE INDEX tx_id ON tx (id);

-- Who takes part. Parties and keys of genesis stand in genesis alone.
CREATE TABLE party (id TEXT PRIMARY KEY, role TEXT NOT NULL, public BLOB NOT NULL, height INTEGER NOT NULL,
  position INTEGER NOT NULL) WITHOUT ROWID;
-- kind: rotate, revoke (public is NULL) or restore, of which it takes two words. by: who sent it.
CREATE TABLE key_change (height INTEGER NOT NULL, position INTEGER NOT NULL, party TEXT NOT NULL, kind TEXT NOT NULL,
  public BLOB, by TEXT NOT NULL, PRIMARY KEY (height, position)) WITHOUT ROWID;
CREATE INDEX key_change_party ON key_change (party, height);
CREATE TABLE pile (kid BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, zone TEXT NOT NULL,
  rated_power_w INTEGER NOT NULL, height INTEGER NOT NULL, retired_height INTEGER) WITHOUT ROWID;
CREATE TABLE receipt (pile TEXT PRIMARY KEY, height INTEGER NOT NULL, leaf INTEGER NOT NULL,
  through_sequence INTEGER NOT NULL) WITHOUT ROWID;

-- Money in and out. state of a withdrawal: requested, paid (reference is the payment's) or refused (with a reason).
CREATE TABLE deposit (reference TEXT PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL, party TEXT NOT NULL,
  amount_micro INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE withdrawal (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL, party TEXT NOT NULL,
  amount_micro INTEGER NOT NULL, destination TEXT NOT NULL, state TEXT NOT NULL, ended_height INTEGER,
  ended_position INTEGER, reference TEXT, reason TEXT) WITHOUT ROWID;
CREATE TABLE fee_collection (height INTEGER NOT NULL, position INTEGER NOT NULL, party TEXT NOT NULL,
  amount_micro INTEGER NOT NULL, PRIMARY KEY (height, position)) WITHOUT ROWID;

-- What the grid announced, by the hash a clearing names it by, and what of it came into force when.
CREATE TABLE announcement (height INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL, from_ms INTEGER NOT NULL,
  utc_offset_minutes INTEGER NOT NULL, PRIMARY KEY (height, position)) WITHOUT ROWID;
CREATE TABLE tariff (height INTEGER PRIMARY KEY, leaf INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE INDEX tariff_hash ON tariff (hash, height);
CREATE TABLE tariff_period (hash BLOB NOT NULL, from_minute INTEGER NOT NULL, name TEXT NOT NULL,
  sell_micro_per_kwh INTEGER NOT NULL, buy_micro_per_kwh INTEGER NOT NULL, PRIMARY KEY (hash, from_minute)) WITHOUT ROWID;

-- kind: market bid, limited bid or listing. outcome: open; filled (a bid, by its contracts); or what its closing leaf said.
CREATE TABLE orders (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL, party TEXT NOT NULL,
  kind TEXT NOT NULL, energy_wh INTEGER NOT NULL, price_micro_per_kwh INTEGER NOT NULL, divisible INTEGER NOT NULL,
  explicit INTEGER NOT NULL, outcome TEXT NOT NULL, ended_height INTEGER) WITHOUT ROWID;
CREATE INDEX orders_party ON orders (party, height);
-- What the contracts of a divisible bid call their order.
CREATE TABLE piece (name BLOB PRIMARY KEY, bid BLOB NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE clearing (height INTEGER NOT NULL, zone TEXT NOT NULL, leaf INTEGER NOT NULL, capacity_wh INTEGER NOT NULL,
  tariff BLOB NOT NULL, open_before_wh INTEGER NOT NULL, open_after_wh INTEGER NOT NULL,
  PRIMARY KEY (height, zone)) WITHOUT ROWID;
CREATE TABLE price (zone TEXT NOT NULL, height INTEGER NOT NULL, catalog_micro_per_kwh INTEGER NOT NULL,
  price_micro_per_kwh INTEGER NOT NULL, PRIMARY KEY (zone, height, catalog_micro_per_kwh)) WITHOUT ROWID;

-- height and leaf: where it was matched (LEAF_PROPOSED or LEAF_CONTRACT); the clearing is that of the same height and zone.
-- signed_*: where it became a contract, NULL for a proposal; signed_position: of the last signature, if it took any.
-- state: proposed, signed, measured, disputed or closed. outcome: NULL until it is closed. terms: all of them, encoded.
CREATE TABLE contract (id BLOB PRIMARY KEY, height INTEGER NOT NULL, leaf INTEGER NOT NULL, terms BLOB NOT NULL,
  bid BLOB NOT NULL, piece INTEGER, listing BLOB NOT NULL, pile TEXT NOT NULL, kid BLOB NOT NULL, zone TEXT NOT NULL,
  user TEXT NOT NULL, owner TEXT NOT NULL, energy_wh INTEGER NOT NULL, price_micro_per_kwh INTEGER NOT NULL,
  on_curve INTEGER NOT NULL, catalog_sell_micro_per_kwh INTEGER NOT NULL, catalog_buy_micro_per_kwh INTEGER NOT NULL,
  window_start_ms INTEGER NOT NULL, window_end_ms INTEGER NOT NULL, fee_micro INTEGER NOT NULL,
  escrow_micro INTEGER NOT NULL, bond_micro INTEGER NOT NULL, state TEXT NOT NULL, signed_height INTEGER,
  signed_leaf INTEGER, signed_position INTEGER, closed_height INTEGER, closed_leaf INTEGER, outcome TEXT) WITHOUT ROWID;
-- Where a new set of accounting nodes has certified a contract again, the last time.
CREATE TABLE repeated (contract BLOB PRIMARY KEY, height INTEGER NOT NULL, leaf INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX contract_bid ON contract (bid, piece);
CREATE INDEX contract_listing ON contract (listing);
CREATE INDEX contract_pile ON contract (pile, window_start_ms);
CREATE INDEX contract_user ON contract (user, height);
CREATE INDEX contract_owner ON contract (owner, height);
CREATE TABLE signature (contract BLOB NOT NULL, party TEXT NOT NULL, height INTEGER NOT NULL, position INTEGER NOT NULL,
  PRIMARY KEY (contract, party)) WITHOUT ROWID;
CREATE TABLE cancellation (contract BLOB PRIMARY KEY, party TEXT NOT NULL, height INTEGER NOT NULL,
  position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE proof (kid BLOB NOT NULL, sequence INTEGER NOT NULL, height INTEGER NOT NULL, position INTEGER NOT NULL,
  item INTEGER NOT NULL, hash BLOB NOT NULL, contract BLOB, event TEXT NOT NULL, reason TEXT NOT NULL,
  first_time_ms INTEGER, last_time_ms INTEGER, last_energy_wh INTEGER, bytes BLOB NOT NULL,
  PRIMARY KEY (kid, sequence)) WITHOUT ROWID;
CREATE INDEX proof_contract ON proof (contract, kid, sequence);

-- number 1 is the settlement as it was written down, 2 the one that a dispute came to (with its basis). The energy columns
-- are the three parts of measured_wh. Only the postings of the last one, and only of a closed contract, moved money.
CREATE TABLE statement (contract BLOB NOT NULL, number INTEGER NOT NULL, height INTEGER NOT NULL, leaf INTEGER NOT NULL,
  measured_wh INTEGER NOT NULL, contracted_wh INTEGER NOT NULL, grid_wh INTEGER NOT NULL, unpaid_wh INTEGER NOT NULL,
  cause TEXT NOT NULL, digest BLOB NOT NULL, basis TEXT, PRIMARY KEY (contract, number)) WITHOUT ROWID;
CREATE TABLE posting (contract BLOB NOT NULL, number INTEGER NOT NULL, item INTEGER NOT NULL, debit TEXT NOT NULL,
  credit TEXT NOT NULL, amount_micro INTEGER NOT NULL, PRIMARY KEY (contract, number, item)) WITHOUT ROWID;
CREATE TABLE confirmation (contract BLOB NOT NULL, party TEXT NOT NULL, height INTEGER NOT NULL,
  position INTEGER NOT NULL, PRIMARY KEY (contract, party)) WITHOUT ROWID;
CREATE TABLE dispute (contract BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL, leaf INTEGER,
  party TEXT NOT NULL, ground TEXT NOT NULL, claimed_wh INTEGER NOT NULL, text TEXT NOT NULL, bond_micro INTEGER,
  answer_height INTEGER, answer_position INTEGER) WITHOUT ROWID;
CREATE TABLE ruling (contract BLOB NOT NULL, height INTEGER NOT NULL, position INTEGER NOT NULL, arbiter TEXT NOT NULL,
  measured_wh INTEGER NOT NULL, cause TEXT NOT NULL, PRIMARY KEY (contract, height, position)) WITHOUT ROWID;

-- Where accounting nodes are elected: every set as it was decided, what nodes did and what it cost, and all money of stake;
-- source and item tell apart what one transaction or leaf moved.
CREATE TABLE accounting_node (from_height INTEGER NOT NULL, party TEXT NOT NULL, power INTEGER NOT NULL,
  stake_micro INTEGER NOT NULL, height INTEGER NOT NULL, leaf INTEGER NOT NULL, PRIMARY KEY (from_height, party)) WITHOUT ROWID;
-- The last blocks of certified sets; the set that follows is that of accounting_node from the next height on.
CREATE TABLE handover (height INTEGER PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE punishment (height INTEGER NOT NULL, leaf INTEGER NOT NULL, party TEXT NOT NULL, reason TEXT NOT NULL,
  offence_height INTEGER NOT NULL, cost_micro INTEGER NOT NULL, PRIMARY KEY (height, leaf)) WITHOUT ROWID;
CREATE TABLE stake_posting (height INTEGER NOT NULL, source TEXT NOT NULL, place INTEGER NOT NULL, item INTEGER NOT NULL,
  debit TEXT NOT NULL, credit TEXT NOT NULL, amount_micro INTEGER NOT NULL,
  PRIMARY KEY (height, source, place, item)) WITHOUT ROWID;

-- A contract and the statement that counts for it: the last one written.
CREATE VIEW settled_contract AS
  SELECT contract.*, s.number, s.height AS settled_height, s.leaf AS settled_leaf, s.measured_wh, s.contracted_wh, s.grid_wh,
    s.unpaid_wh, s.cause, s.digest, s.basis
  FROM contract LEFT JOIN statement AS s ON s.contract = contract.id
    AND s.number = (SELECT max(number) FROM statement WHERE contract = contract.id);

-- All money that moved, between accounts named as in the ledger guide; G is the grid party's, for deviations. What a resting
-- bid puts up is not here: it returns, but for what its contracts take, which is.
CREATE VIEW movement (height, debit, credit, amount_micro) AS
  SELECT height, 'X', 'P:' || party, amount_micro FROM deposit
  UNION ALL SELECT height, 'P:' || party, 'W:' || lower(hex(id)), amount_micro FROM withdrawal
  UNION ALL SELECT ended_height, 'W:' || lower(hex(id)), CASE state WHEN 'paid' THEN 'X' ELSE 'P:' || party END, amount_micro
    FROM withdrawal WHERE state != 'requested'
  UNION ALL SELECT height, 'F', 'P:' || party, amount_micro FROM fee_collection
  UNION ALL SELECT height, debit, credit, amount_micro FROM stake_posting
  UNION ALL SELECT height, 'P:' || user, 'E:' || lower(hex(id)), escrow_micro FROM contract
  UNION ALL SELECT height, 'P:' || owner, 'B:' || lower(hex(id)), bond_micro FROM contract
  UNION ALL SELECT height, 'P:' || party, 'D:' || lower(hex(contract)), bond_micro FROM dispute
  UNION ALL SELECT c.closed_height, d.account, k.account, p.amount_micro
    FROM settled_contract AS c JOIN posting AS p ON p.contract = c.id AND p.number = c.number
    JOIN side AS d ON d.contract = c.id AND d.side = p.debit JOIN side AS k ON k.contract = c.id AND k.side = p.credit
    WHERE c.closed_height IS NOT NULL;
-- Which account each side of a posting is.
CREATE VIEW side (contract, side, account) AS
  SELECT id, 'U', 'P:' || user FROM contract UNION ALL SELECT id, 'H', 'P:' || owner FROM contract
  UNION ALL SELECT id, 'G', 'G' FROM contract UNION ALL SELECT id, 'F', 'F' FROM contract
  UNION ALL SELECT id, 'E', 'E:' || lower(hex(id)) FROM contract UNION ALL SELECT id, 'B', 'B:' || lower(hex(id)) FROM contract
  UNION ALL SELECT id, 'D', 'D:' || lower(hex(id)) FROM contract;
"""
