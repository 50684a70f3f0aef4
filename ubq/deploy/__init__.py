"""Copying a bundle to a Raspberry Pi over the user's own ssh, and trying it there."""
