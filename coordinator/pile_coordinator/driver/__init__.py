"""The driver's page: a wallet with a face, served by the wallet's own process: the key stays on the driver's machine."""
