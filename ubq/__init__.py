"""ubq: quantisation-aware training and int8 export of UB-Diff for the Raspberry Pi."""

__version__ = "0.1.0"
