"""Passes over a converted graph: one rewrite or check per file, in the order of PASSES in export/convert/convert.py."""
