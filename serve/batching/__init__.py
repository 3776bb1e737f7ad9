"""Queues requests and groups them into batches."""
