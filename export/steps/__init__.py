"""The steps of an export, one per file; export/pipeline.py runs them in order."""
