"""fedmed: what does privacy cost a network of hospitals?"""

__version__ = "0.2.0"
