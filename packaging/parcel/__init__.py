"""Parcel: what `make package` runs. It turns this checkout into packages for the customer's site.

A stranger who has the same commit, the same lock and the same options gets the same bytes.

    wheels ──► what the appliance needs, from the lock, each checked against its hash
    tree   ──► files with fixed owners, modes and times
    shelf  ──► manual pages and completions, by the program's own commands and settings
    deb, archive ──► the two packages          sbom ──► what is in them
    seal   ──► checksums and the signature over them

Rules
1. Nothing is taken that ``requirements.lock`` does not name with a hash, but for this project's own wheel, which is
   built from the checkout.
2. Time is that of ``SOURCE_DATE_EPOCH``; files are in the order of their names; nothing of the build machine's (paths,
   users, umask, bytecode) enters.
3. What comes out is whole or not there: everything is made in a folder beside and moved at the end.

It is no part of the installed program. Of that it imports the judge of the vendor's key set, and what the pages tell
of: commands and settings.
"""
