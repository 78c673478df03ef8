"""What people and programs read: tables, the tree of modules, findings in words, JSON; from records, never torch."""
