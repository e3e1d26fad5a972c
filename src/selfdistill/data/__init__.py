"""Reads files, folders and Hub datasets, and turns their rows into Examples."""
