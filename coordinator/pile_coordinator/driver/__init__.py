"""The driver's page: a wallet with a face. Served by the wallet's own process, so that the key stays on the driver's machine."""
