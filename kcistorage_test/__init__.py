"""Tests of kcistorage: each file mirrors the part or the chapter that it tests."""
