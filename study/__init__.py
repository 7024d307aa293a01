"""Experiments: a sweep file, what it gave, and the page of the manual made of it."""
