"""Care: what keeps a server well for years: examinations, the support bundle, retention, disk, log, drop folder.

``findings`` is what an examination says; ``machine`` and ``standing`` find it, ``doctor`` puts it together. Outside of
this package the modules are used by name; nothing here decides about a seat.
"""
