"""Linkable ring signatures: somebody of sixteen signed, nobody learns who, and nobody signs as two.

Pure: no state, clock, file or network. `signature` is the scheme, `keys` derives the keys it signs with, `disclosure` lets
a signer say of a signature "that was me", `group` is the arithmetic under all three. docs/ring-signatures.md has every
formula and byte layout, enough to write a second implementation.

Scheme: bLSAG, "Back's linkable spontaneous anonymous group signature", on ristretto255 (RFC 9496) with SHA-512. Sources:
J. K. Liu, V. K. Wei, D. S. Wong, "Linkable Spontaneous Anonymous Group Signature for Ad Hoc Groups" (ACISP 2004) for the
ring and its proof; A. Back, "Ring signature efficiency" (2015) and S. Noether, A. Mackenzie, "Ring Confidential Transactions"
(Ledger 1, 2016) for the image x * Hp(P) in it, as in CryptoNote and Monero; P. P. Tsang et al., "Separable Linkable
Threshold Ring Signatures" (INDOCRYPT 2004) for linking by event, which is our context.

Two decisions differ from Monero's. A ring is always a whole sealed bin of sixteen keys, so there are no decoys to choose
badly. And Hp takes the context, chain and bin, so that one key in two bins has two images that nobody can link. A chain that
looks images up bin by bin loses nothing by that: inside a bin each key still has exactly one.

Limits:
    One of sixteen at most, and one of fewer to whoever knows of some members that it was not them.
    No forward secrecy: who gets a secret, however late, computes its image in every context and knows what it signed.
    Not post-quantum: who takes discrete logarithms of the keys on the chain learns all images, so who signed what, ever since.
    Constant time is libsodium's arithmetic, as far as it says so; the Python around it is not. Sign where nobody can measure.
    The ring must come from the verifier's own records, never from who presents the signature.
"""
