"""The errands over the air gap: bundles in, reports out, receipts in, seats that leave, questions to the journal.

``errands`` runs them, ``starting`` says what must hold before, ``reports`` writes what leaves, ``questions`` reads what
was written. Outside of this package only the names below are used.
"""

from lls.airgap.errands import Airgap, Imported, Lent, PolicyChange
from lls.airgap.questions import DenialLine, JournalCheck
from lls.airgap.reports import ReportPreview, commitments

__all__ = ["Airgap", "DenialLine", "Imported", "JournalCheck", "Lent", "PolicyChange", "ReportPreview", "commitments"]
