"""Linkable ring signatures: somebody of sixteen signed, nobody learns who, and nobody signs as two.

Pure: no state, clock, file or network. `signature` is the scheme, `keys` derives the keys it signs with, `disclosure` lets
a signer say of a signature "that was me", `group` is the arithmetic under all three. docs/ring-signatures.md has every
formula and byte layout, enough to write a second implementation.

Scheme: bLSAG, the back-linkable ring signature of Monero, on ristretto255 (RFC 9496) with SHA-512. Sources: J. K. Liu,
V. K. Wei, D. S. Wong, "Linkable Spontaneous Anonymous Group Signature for Ad Hoc Groups" (ACISP 2004) for the ring; A. Back,
"Ring signature efficiency" (2015) and S. Noether, A. Mackenzie, "Ring Confidential Transactions" (Ledger 1, 2016, section 2)
for the key image x * Hp(P) in it; P. P. Tsang, V. K. Wei, "Short Linkable Ring Signatures for E-Voting, E-Cash and
Attestation" (ISPEC 2005) for linking by event, here by context.

Two decisions differ from Monero's. A ring is always a whole sealed bin of sixteen keys, so there are no decoys to choose
badly. And Hp takes the context, chain and bin, so that one key in two bins has two images that nobody can link; a chain
that looks images up bin by bin loses nothing, because inside a bin each key still has exactly one.

Limits:
    One of sixteen at most. Who knows who the others are not, learns more; docs/ring-signatures.md counts how much.
    No forward secrecy: who gets a secret later computes its image in every context and knows what it signed.
    Not post-quantum: a discrete logarithm of a key on the chain tells its image, so every old signature can be attributed.
    Constant time as far as libsodium's arithmetic is; Python around it promises nothing. Sign where others cannot measure.
    The ring must come from the verifier's own records, never from who presents the signature.
"""
