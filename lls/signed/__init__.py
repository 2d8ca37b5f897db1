"""Every document with a signature: made, read and judged.

One room per document; each says in its first lines who signs it and in which order it is judged. Whatever a reader is
given, it returns a value or raises :class:`lls.faults.RefusedDocument`. This package and ``lls.client`` are the only
importers of joserfc and cryptography.
"""
