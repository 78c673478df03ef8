"""Turns records into something to read: text, tables, the tree of modules, JSON, HTML for notebooks; never torch."""
