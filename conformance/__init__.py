"""A black-box conformance suite for HTTP artifact storage. It judges any server by its URL and never imports one."""

VERSION = "1.0"
