"""How tables write a patient's sex: F, M or nothing, and the words of other tables for these."""

from typing import Final

SEXES: Final = ("F", "M")
SEX_WORDS: Final = {"f": "F", "female": "F", "m": "M", "male": "M"}  # lower case
