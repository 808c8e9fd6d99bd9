"""Commands of `pile-edge` that do not run on a pile: a module each, registered in `pile_edge.cli` by a line each."""
