"""All kinds, by being imported."""

from fuzz import kinds_images, kinds_places, kinds_results, kinds_settings, kinds_site, kinds_tables

__all__ = [
    "kinds_images",
    "kinds_places",
    "kinds_results",
    "kinds_settings",
    "kinds_site",
    "kinds_tables",
]
