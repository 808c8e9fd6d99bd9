"""Certificates of orders that notes paid for: each ending's holds and names nobody, and each link broken once is named."""

import time

import pytest
from note_chain import ENDINGS, NoteChain

from pile_coordinator.verify import verify_order


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    chain = NoteChain(tmp_path_factory.mktemp("notes"), each=10, rulings_needed=2)
    chain.admit()
    yield chain
    chain.close()


@pytest.fixture(scope="module")
def made(chain):
    t = time.time()
    d = {}
    for name, make in ENDINGS.items():
        t = time.time()
        d[name] = make(chain)
        print(name, time.time() - t, d[name][1])
    return d


@pytest.mark.parametrize("name", ENDINGS)
def test_x(made, chain, name):
    c, who = made[name]
    t = time.time()
    v = verify_order(c.encoded(), chain.genesis)
    print(v.outcome, v.statement.cause, v.confirmed_by, v.set_size, len(c.rings), time.time() - t)
