"""Leaves of kcistorage: each imports the standard library and at most one library of its own, never another leaf."""
