"""The coordinator as an ABCI 2.0 application of CometBFT: framing, messages, and nothing of the law."""
