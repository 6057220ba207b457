"""What a member or the collector refuses."""


class SumRefused(Exception):
    """A message that this protocol does not allow: one line that names it; nothing was unmasked."""
